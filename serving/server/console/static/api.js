// The only module that calls the server: with the credentials of whoever looks, which stay here.

const KEPT = "convserve.credentials";
const LATE = "no answer came in the time that this page waits for one";
const TITLES = {
  0: "The server does not answer",
  400: "The server does not take this",
  401: "The server wants to know who calls",
  403: "Not allowed",
  404: "Not found",
  408: "It took too long to arrive",
  413: "Too large",
  429: "The server is full",
  500: "The server failed",
  503: "Not ready",
  504: "No answer in time",
  file: "The file cannot be read",
};

/** A call that failed. status: of HTTP, 0 where there was no answer, "file" where what was to be sent
 *  cannot be read. retryAfter: seconds, or null. */
export class ApiError extends Error {
  constructor(status, message, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.title = TITLES[status] ?? `The server answers ${status}`;
  }
}

/** A path below the server, of parts that may hold any character. */
export function path(...parts) {
  return parts.map(encodeURIComponent).join("/");
}

export class Api extends EventTarget {
  /** ask: given the server's reason, asks for credentials; gives {kind, value, keep} or null. */
  constructor(ask) {
    super();
    this._ask = ask;
    this._asking = null;
    this._declined = false;
    this.credentials = kept();
  }

  /** Takes credentials, or forgets them. */
  use(credentials) {
    this.credentials = credentials && { kind: credentials.kind, value: credentials.value };
    this._declined = false;
    if (credentials?.keep) sessionStorage.setItem(KEPT, JSON.stringify(this.credentials));
    else sessionStorage.removeItem(KEPT);
    this.dispatchEvent(new Event("credentials"));
  }

  /** The JSON of a GET. */
  get(where, options = {}) {
    return this.json("GET", where, options);
  }

  /** The JSON of a POST. body: a Blob, or anything else, which is sent as JSON. */
  post(where, body, options = {}) {
    return this.json("POST", where, { ...options, body });
  }

  async json(method, where, options) {
    const text = await this.text(method, where, options);
    try {
      return text ? JSON.parse(text) : null;
    } catch {
      throw new ApiError(500, "the answer is not JSON");
    }
  }

  /** The text of an answer. where: relative to the page. options: body, signal, headers. Raises
   *  ApiError, and AbortError where the signal says so. */
  async text(method, where, options = {}) {
    for (;;) {
      const used = this.credentials;
      const response = await this._send(method, where, options);
      const text = await read(response);
      if (response.ok) return text;
      const error = new ApiError(response.status, said(text, response), retryAfter(response));
      // Others may have been asked meanwhile; then this call goes again with what they were given.
      if (response.status !== 401 || (used === this.credentials && !(await this._asked(error)))) {
        throw error;
      }
    }
  }

  async _send(method, where, { body = null, signal = null, headers = {} }) {
    const sent = { ...headers };
    const kind = this.credentials?.kind;
    if (kind === "key") sent["X-Api-Key"] = this.credentials.value;
    if (kind === "token") sent.Authorization = `Bearer ${this.credentials.value}`;
    const isFile = body instanceof Blob;
    if (body !== null) sent["Content-Type"] = isFile ? "application/octet-stream" : "application/json";
    try {
      return await fetch(where, {
        method,
        signal,
        headers: sent,
        body: body === null || isFile ? body : JSON.stringify(body),
        cache: "no-store",
        redirect: "error",
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (error.name === "TimeoutError") throw new ApiError(0, LATE);
      if (isFile && !(await isReadable(body))) throw new ApiError("file", "it was moved, deleted or changed since it was chosen");
      throw new ApiError(0, "it was not reached, or it cut the connection before its answer was read");
    }
  }

  /** Asks once for all calls that wait, and not again after a refusal. */
  async _asked(error) {
    if (this._declined) return false;
    this._asking ??= this._ask(error.message);
    const given = await this._asking;
    if (this._asking !== null) {
      this._asking = null;
      if (given) this.use(given);
      else this._declined = true;
    }
    return given !== null;
  }
}

/** Credentials that the reader wanted kept; null where there are none, or none of ours. */
function kept() {
  try {
    const { kind, value } = JSON.parse(sessionStorage.getItem(KEPT));
    return { kind: String(kind), value: String(value) };
  } catch {
    return null;
  }
}

/** Whether a file is still there: the browser reads it anew each time. */
async function isReadable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}

async function read(response) {
  try {
    return await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") throw new ApiError(0, LATE);
    throw new ApiError(0, "it cut the connection in the middle of its answer");
  }
}

function said(text, response) {
  try {
    const { error } = JSON.parse(text);
    if (typeof error === "string") return error;
  } catch {
    // A proxy's page, or nothing.
  }
  return response.statusText || "it gives no reason";
}

function retryAfter(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  return seconds > 0 && seconds < 86400 ? seconds : null;
}
