// Classifies image files with grpc-js: deadlines, retries, TLS, keys.
//
// The protos are loaded as they are shipped; nothing is generated.
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

const USAGE = `usage: node classify.mjs [OPTION...] MODEL IMAGE...
Classifies JPEG, PNG, WebP and BMP files.
  --url HOST:PORT         address of gRPC [127.0.0.1:8001]; grpcs://HOST:PORT calls by TLS
  --top-k N               labels of an image [5]
  --tls                   call by TLS, and trust the authorities of this machine
  --tls-ca FILE           the server's authorities
  --tls-cert FILE         the client's certificate, and its key by --tls-key FILE
  --tls-server-name NAME  the name in the server's certificate, if it is not the address
  --api-key-file FILE     who calls, by a key; or by a token: --token-file FILE`;

// From a checkout; elsewhere CONVSERVE_PROTOS says where vision.proto lies.
const PROTOS =
  process.env.CONVSERVE_PROTOS ?? fileURLToPath(new URL('../../protos', import.meta.url));
const TIMEOUT_MS = 10_000;
const TRIES = 4;
const { RESOURCE_EXHAUSTED, UNAVAILABLE } = grpc.status;

// With a CA, a client certificate or a server name, TLS is meant; so it is by grpcs://.
async function credentials(url, { tls, 'tls-ca': ca, 'tls-cert': cert, 'tls-key': key, ...rest }) {
  if (!(tls || ca || cert || key || rest['tls-server-name'] || url.startsWith('grpcs://'))) {
    return grpc.credentials.createInsecure();
  }
  const files = [ca, key, cert].map((file) => (file ? readFile(file) : null));
  return grpc.credentials.createSsl(...(await Promise.all(files)));
}

async function connect(url, options) {
  if (!existsSync(`${PROTOS}/vision.proto`)) {
    throw new Error(`${PROTOS} has no vision.proto: name its folder in CONVSERVE_PROTOS`);
  }
  const definition = protoLoader.loadSync('vision.proto', {
    includeDirs: [PROTOS],
    keepCase: true,
    defaults: true,
  });
  const { VisionService } = grpc.loadPackageDefinition(definition).convserve.vision.v1;
  const name = options['tls-server-name'];
  const target = url.replace(/^grpcs?:\/\//, '');
  return new VisionService(target, await credentials(url, options), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
    ...(name && { 'grpc.ssl_target_name_override': name, 'grpc.default_authority': name }),
  });
}

// The key or the token that goes with every call.
async function whoCalls({ 'api-key-file': key, 'token-file': token }) {
  const metadata = new grpc.Metadata();
  if (key) metadata.set('x-api-key', (await readFile(key, 'utf8')).trim());
  if (token) metadata.set('authorization', `Bearer ${(await readFile(token, 'utf8')).trim()}`);
  return metadata;
}

// What to do about a connection that does not come about, by the words of the library.
const HINTS = [
  [/self.signed|unable to (get|verify)/i, 'give the file of its authority with --tls-ca'],
  [/altnames|Hostname/i, 'give a name that its certificate has with --tls-server-name'],
  [/certificate required|bad certificate|handshake failure|unknown ca/i,
    'give a certificate that the server takes with --tls-cert and --tls-key'],
  [/wrong version number|packet length too long|before secure TLS connection/i,
    'the server does not speak TLS: leave --tls out'],
  [/Connection dropped|Failed to connect|ECONNRESET|socket hang up/i,
    'it may speak TLS: --tls; or want a certificate: --tls-cert and --tls-key'],
];

function explained(error) {
  const text = error.details ?? error.message;
  const hint = error.code === UNAVAILABLE && HINTS.find(([words]) => words.test(text));
  return hint ? `${text}: ${hint[1]}` : text;
}

// One call. The deadline travels with it: the server refuses at once what it cannot do by then.
function classify(client, request, metadata, deadline) {
  return new Promise((resolve, reject) => {
    client.Classify(request, metadata, { deadline }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

// Tries again what was refused for the moment, within one deadline for all tries.
async function classifyRetrying(client, request, metadata) {
  const deadline = Date.now() + TIMEOUT_MS;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await classify(client, request, metadata, deadline);
    } catch (error) {
      const delay = 50 * 2 ** attempt;
      const refused = [RESOURCE_EXHAUSTED, UNAVAILABLE].includes(error.code);
      if (!refused || attempt === TRIES || Date.now() + delay >= deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }
}

// The options and MODEL IMAGE... of the command. Throws an error that says what is wrong with it.
function readCommand() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      help: { type: 'boolean' },
      url: { type: 'string', default: '127.0.0.1:8001' },
      'top-k': { type: 'string', default: '5' },
      tls: { type: 'boolean' },
      'tls-ca': { type: 'string' },
      'tls-cert': { type: 'string' },
      'tls-key': { type: 'string' },
      'tls-server-name': { type: 'string' },
      'api-key-file': { type: 'string' },
      'token-file': { type: 'string' },
    },
  });
  const topK = values['top-k'];
  if (!/^[1-9]\d*$/.test(topK)) throw new Error(`--top-k ${topK}: a number from 1 is expected`);
  if (!values.help && positionals.length < 2) throw new Error('MODEL and IMAGE are missing');
  return { values, positionals };
}

async function main() {
  let command;
  try {
    command = readCommand();
  } catch (error) {
    console.error(`${error.message}\n${USAGE}`);
    return 2;
  }
  const { values, positionals } = command;
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const [model, ...files] = positionals;
  const client = await connect(values.url, values);
  const metadata = await whoCalls(values);
  let failed = 0;
  for (const file of files) {
    try {
      const images = [{ encoded: await readFile(file) }];
      const request = { model, images, top_k: Number(values['top-k']) };
      const { results, served } = await classifyRetrying(client, request, metadata);
      const labels = results[0].labels.map(({ name, score }) => `${name} ${score.toFixed(4)}`);
      console.log(`${file}: ${labels.join(', ')}  (${served.model} ${served.version})`);
    } catch (error) {
      failed += 1;
      console.error(`${file}: ${explained(error)}`);
    }
  }
  client.close();
  return failed ? 1 : 0;
}

// A file of protos, certificates or keys that cannot be read.
process.exitCode = await main().catch((error) => {
  console.error(explained(error));
  return 1;
});
