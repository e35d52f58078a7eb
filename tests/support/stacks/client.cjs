// Calls the methods of tests/support/wired.py by grpc-js: node client.cjs HOST:PORT. Prints what came
// of each case as one line of JSON; tests/serving/server/wire/test_stacks.py says what must.
const { randomBytes } = require('node:crypto');
const grpc = require('@grpc/grpc-js');

const PATIENCE_MS = 20_000;
const same = (data) => data;
const client = new grpc.Client(process.argv[2], grpc.credentials.createInsecure(), {
  'grpc.max_receive_message_length': -1,
});

function unary(name, message, metadata = new grpc.Metadata(), patience = PATIENCE_MS) {
  const options = { deadline: Date.now() + patience };
  return new Promise((resolve, reject) => {
    const path = `/tests.Interop/${name}`;
    client.makeUnaryRequest(path, same, same, message, metadata, options, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

const status = (call) => call.then(() => [0, ''], (error) => [error.code, error.details]);

function conversation() {
  const options = { deadline: Date.now() + PATIENCE_MS };
  const path = '/tests.Interop/converse';
  const stream = client.makeBidiStreamRequest(path, same, same, new grpc.Metadata(), options);
  const ended = new Promise((resolve) => stream.on('status', ({ code }) => resolve(code)));
  stream.on('error', () => {});
  const answer = () => new Promise((resolve) => stream.once('data', resolve));
  return { stream, ended, answer };
}

async function pingPong() {
  const { stream, ended, answer } = conversation();
  for (const size of [27182, 8, 1828, 45904]) {
    const message = randomBytes(size);
    stream.write(message);
    if (!message.equals(await answer())) return 'another answer';
  }
  stream.end();
  return ended;
}

async function cancelled() {
  const { stream, ended, answer } = conversation();
  stream.write(Buffer.from('a'));
  await answer();
  stream.cancel();
  return ended;
}

async function echoes(size) {
  const message = randomBytes(size);
  return message.equals(await unary('echo', message));
}

async function main() {
  const metadata = new grpc.Metadata();
  metadata.set('x-one', 'a b');
  metadata.set('x-one-bin', Buffer.from([0, 255, 10]));
  const headers = async (key) => JSON.parse(await unary('headers', Buffer.from(key), metadata));
  const many = await Promise.all([...Array(100).keys()].map((number) => echoes(1 + 997 * number)));
  const found = {
    empty: (await unary('empty', Buffer.alloc(0))).length,
    small: await echoes(10),
    large: await echoes(5 << 20),
    many: many.every(Boolean),
    text: await headers('x-one'),
    bytes: await headers('x-one-bin'),
    failed: await status(unary('fail', Buffer.from('["ABORTED", "100 % \u263a", ""]'))),
    unknown: (await status(unary('missing', Buffer.alloc(1))))[0],
    late: (await status(unary('sleep', Buffer.alloc(1), undefined, 100)))[0],
    pingPong: await pingPong(),
    cancelled: await cancelled(),
  };
  console.log(JSON.stringify(found));
  client.close();
}

main();
