// Classifies image files: node classify.mjs [--url HOST:PORT] [--top-k N] MODEL IMAGE...
//
// The protos are loaded as they are shipped; nothing is generated.
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';

// From a checkout; elsewhere CONVSERVE_PROTOS says where vision.proto lies.
const PROTOS =
  process.env.CONVSERVE_PROTOS ?? fileURLToPath(new URL('../../protos', import.meta.url));
const TIMEOUT_MS = 10_000;
const TRIES = 4;
const { RESOURCE_EXHAUSTED, UNAVAILABLE } = grpc.status;

function connect(url) {
  const definition = protoLoader.loadSync('vision.proto', {
    includeDirs: [PROTOS],
    keepCase: true,
    defaults: true,
  });
  const { VisionService } = grpc.loadPackageDefinition(definition).convserve.vision.v1;
  return new VisionService(url, grpc.credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': -1,
  });
}

// One call. The deadline travels with it: the server refuses at once what it cannot do by then.
function classify(client, request, deadline) {
  return new Promise((resolve, reject) => {
    client.Classify(request, { deadline }, (error, response) =>
      error ? reject(error) : resolve(response),
    );
  });
}

// Tries again what was refused for the moment, within one deadline for all tries.
async function classifyRetrying(client, request) {
  const deadline = Date.now() + TIMEOUT_MS;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await classify(client, request, deadline);
    } catch (error) {
      const delay = 50 * 2 ** attempt;
      const refused = [RESOURCE_EXHAUSTED, UNAVAILABLE].includes(error.code);
      if (!refused || attempt === TRIES || Date.now() + delay >= deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }
}

async function main() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      url: { type: 'string', default: '127.0.0.1:8001' },
      'top-k': { type: 'string', default: '5' },
    },
  });
  const [model, ...files] = positionals;
  if (files.length === 0) {
    console.error('usage: node classify.mjs [--url HOST:PORT] [--top-k N] MODEL IMAGE...');
    return 2;
  }
  const client = connect(values.url);
  let failed = 0;
  for (const file of files) {
    try {
      const images = [{ encoded: await readFile(file) }];
      const request = { model, images, top_k: Number(values['top-k']) };
      const { results, served } = await classifyRetrying(client, request);
      const labels = results[0].labels.map(({ name, score }) => `${name} ${score.toFixed(4)}`);
      console.log(`${file}: ${labels.join(', ')}  (${served.model} ${served.version})`);
    } catch (error) {
      failed += 1;
      console.error(`${file}: ${error.details ?? error.message}`);
    }
  }
  client.close();
  return failed ? 1 : 0;
}

process.exitCode = await main();
