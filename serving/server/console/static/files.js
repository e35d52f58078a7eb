// The files of a drop, and those in its folders.

// Entries of dropped folders that are looked at, most: somebody may drop his whole disk.
const MOST_ENTRIES = 10_000;

/** Whether a file may be an image. A browser knows kinds by the ends of names; what it does not know
 *  the server judges, except the files that systems hide. */
export function maybeImage(file) {
  return file.type.startsWith("image/") || (file.type === "" && !file.name.startsWith("."));
}

/** The files of a list with the names to show: [[file, name]]. Those chosen by their folder have its
 *  name before their own. */
export function named(files) {
  return [...files].map((file) => [file, file.webkitRelativePath || file.name]);
}

/** The files of a drop as `named` gives them; of folders those that may be images, in order of their
 *  names. To be called while the event is handled: later a browser forgets what was dropped. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return named(transfer.files);
  const found = [];
  const left = entries;
  for (let looked = 0; left.length && looked < MOST_ENTRIES; looked += 1) {
    const entry = left.shift();
    if (entry.isDirectory) left.unshift(...(await inside(entry)));
    else {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      if (maybeImage(file)) found.push([file, entry.fullPath.slice(1)]);
    }
  }
  return found;
}

/** What lies in a folder, as far as it is looked at. */
async function inside(folder) {
  const reader = folder.createReader();
  const found = [];
  while (found.length < MOST_ENTRIES) {
    // About a hundred at a time; none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  return found.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
}
