// Reads custom resources as a JSON list, validates each against the schema of its kind and prints
// what is wrong as a JSON list of texts. A kind without a schema is an error too.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const packages = {
  "monitoring.coreos.com/v1": "prometheus-operator",
  "keda.sh/v1alpha1": "keda",
  "gateway.networking.k8s.io/v1": "gateway-api",
  "cert-manager.io/v1": "cert-manager",
};
const [tools] = process.argv.slice(2);
const problems = [];
for (const object of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${object.kind} ${object.metadata.name}`;
  const found = packages[object.apiVersion];
  if (!found) {
    problems.push(`${name}: no schema for ${object.apiVersion}`);
    continue;
  }
  const folder = join(tools, "node_modules/@kubernetes-models", found, object.apiVersion);
  const kinds = await import(pathToFileURL(join(folder, "index.js")));
  try {
    new kinds[object.kind](object).validate();
  } catch (error) {
    problems.push(`${name}: ${error.message}`);
  }
}
console.log(JSON.stringify(problems));
