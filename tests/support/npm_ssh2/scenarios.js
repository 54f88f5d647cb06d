// What programs do with npm's ssh2: `node scenarios.js NAME`, with {login, …} as JSON on standard input.
// The answer is JSON on standard output; anything that fails is thrown, and ends the program with 1.
'use strict';

const { createHash, randomBytes } = require('node:crypto');
const { once } = require('node:events');
const { readFileSync } = require('node:fs');
const { buffer } = require('node:stream/consumers');
const { promisify } = require('node:util');
const { Client, utils } = require('ssh2');

const SIZE_BYTES = 8 * 1024 * 1024 + 1;
const digest = (data) => createHash('sha256').update(data).digest('hex');

async function connect({ host, port, username, key }, more = {}) {
  const client = new Client();
  const ready = once(client, 'ready');
  client.connect({ host, port, username, privateKey: readFileSync(key), readyTimeout: 20000, ...more });
  await ready;
  return client;
}

async function exec(client, command, { input = '', options = {} } = {}) {
  const stream = await promisify(client.exec).call(client, command, options);
  const closed = once(stream, 'close');
  const streams = Promise.all([buffer(stream), buffer(stream.stderr)]);
  stream.end(input);
  const [out, err] = await streams;
  const [code, signal] = await closed;
  return { out, text: out.toString(), err: err.toString(), code: code ?? null, signal: signal ?? null };
}

// Send, half-close, and read the answer to its end.
async function ask(stream, data) {
  stream.end(data);
  return (await buffer(stream)).toString();
}

function promised(sftp) {
  const names = ['fastPut', 'fastGet', 'symlink', 'readlink', 'readdir', 'mkdir', 'stat', 'realpath', 'readFile',
    'writeFile', 'ext_openssh_statvfs', 'ext_openssh_rename', 'ext_openssh_hardlink'];
  return Object.fromEntries(names.map((name) => [name, promisify(sftp[name]).bind(sftp)]));
}

const scenarios = {
  async exec({ login }) {
    const client = await connect(login);
    const noise = randomBytes(SIZE_BYTES);
    const plain = await exec(client, 'echo out; echo err >&2; exit 7');
    const signal = await exec(client, 'kill -TERM $$');
    const echoed = await exec(client, 'cat', { input: noise });
    client.end();
    return { plain, signal, isEchoed: digest(echoed.out) === digest(noise) };
  },

  async manyAtOnce({ login, count }) {
    const client = await connect(login);
    const numbers = Array.from({ length: count }, (_, number) => number);
    const one = (number) => exec(client, `cat; exit ${number}`, { input: `${number}` });
    const done = await Promise.all(numbers.map(one));
    client.end();
    return done.map(({ text, code }) => [text, code]);
  },

  // An editor's terminal: a window that changes, and the end of the shell.
  async shell({ login }) {
    const client = await connect(login);
    const shell = await promisify(client.shell).call(client, { term: 'xterm-256color', cols: 91, rows: 17 });
    const exited = once(shell, 'exit');
    let screen = '';
    let seen = () => {};
    shell.on('data', (data) => { screen += data; seen(); });
    const wait = (text) => new Promise((done) => { seen = () => { if (screen.includes(text)) done(); }; seen(); });
    shell.write('stty size; echo term=$TERM\n');
    await wait('17 91\r\n');
    shell.setWindow(33, 101, 0, 0);
    shell.write('stty size; exit 5\n');
    await wait('33 101\r\n');
    const [code] = await exited;
    client.end();
    return { code, hasTerm: screen.includes('term=xterm-256color') };
  },

  async sftp({ login, folder }) {
    const client = await connect(login);
    const channel = await promisify(client.sftp).call(client);
    const sftp = promised(channel);
    const start = await sftp.realpath('.');
    await sftp.mkdir('d');
    await sftp.fastPut(`${folder}/noise`, 'd/carried', { concurrency: 64 });
    await sftp.symlink('carried', 'd/link');
    await sftp.fastGet('d/link', `${folder}/back`, { concurrency: 64 });
    await sftp.writeFile('d/small', 'small');
    await sftp.ext_openssh_hardlink('d/small', 'd/twin');
    await sftp.ext_openssh_rename('d/small', 'd/twin2');
    const found = {
      start,
      pointsTo: await sftp.readlink('d/link'),
      names: (await sftp.readdir('d')).map(({ filename }) => filename).sort(),
      small: (await sftp.readFile('d/twin')).toString(),
      hasStatvfs: 'f_bavail' in await sftp.ext_openssh_statvfs('.'),
      missing: await sftp.stat('nothing-here').catch(({ code, message }) => [code, message]),
    };
    client.end();
    return found;
  },

  async forwards({ login, port, path, own, remotePort, remotePath }) {
    const client = await connect(login);
    const toPort = await promisify(client.forwardOut).call(client, '127.0.0.1', 0, 'localhost', port);
    const toPath = await promisify(client.openssh_forwardOutStreamLocal).call(client, path);
    const answers = { toPort: await ask(toPort, 'to a port'), toPath: await ask(toPath, 'to a path') };
    const refused = promisify(client.forwardOut).call(client, '127.0.0.1', 0, 'localhost', own);
    answers.refused = await refused.then(() => null, ({ reason }) => reason);

    // What the client's own server does.
    const shout = (info, accept) => {
      const stream = accept();
      const chunks = [];  // not read by buffer(), which would end the stream's other half as well
      stream.on('data', (chunk) => chunks.push(chunk));
      stream.on('end', () => stream.end(Buffer.concat(chunks).toString().toUpperCase()));
    };
    client.on('tcp connection', shout).on('unix connection', shout);
    const given = await promisify(client.forwardIn).call(client, '127.0.0.1', 0);
    await promisify(client.forwardIn).call(client, '127.0.0.1', remotePort);
    await promisify(client.openssh_forwardInStreamLocal).call(client, remotePath);
    const speak = (where) => exec(client, `exec python3 -c '${ASKER}' ${where}`, { input: 'hello' });
    for (const where of [given, remotePort, remotePath]) {
      answers[where === given ? 'given' : where] = (await speak(where)).text;
    }
    await promisify(client.unforwardIn).call(client, '127.0.0.1', remotePort);
    answers.afterwards = (await speak(remotePort)).code;
    client.end();
    return answers;
  },

  // As open-remote-ssh logs in: none, then one key after the other.
  async keys({ login, keys }) {
    const tried = [];
    const offers = [{ type: 'none', username: login.username },
      ...keys.map((key) => ({ type: 'publickey', username: login.username, key: utils.parseKey(readFileSync(key)) }))];
    const client = await connect(login, {
      authHandler: (methodsLeft, partial, next) => {
        const offer = offers.shift();
        tried.push(offer ? offer.type : 'nothing');
        next(offer ?? false);
      },
    });
    const { text } = await exec(client, 'echo in');
    client.end();
    return { tried, text };
  },

  // Its probes want an answer, and a missing one ends the connection.
  async keepalive({ login }) {
    const client = await connect(login, { keepaliveInterval: 50, keepaliveCountMax: 2 });
    const { text } = await exec(client, 'sleep 1; echo still');
    client.end();
    return text;
  },
};

const ASKER = `
import socket, sys
where = sys.argv[1]
s = socket.socket(socket.AF_UNIX if "/" in where else socket.AF_INET)
s.settimeout(20)
s.connect(where if "/" in where else ("127.0.0.1", int(where)))
s.sendall(sys.stdin.buffer.read()); s.shutdown(socket.SHUT_WR)
sys.stdout.buffer.write(s.makefile("rb").read())
`;

async function main() {
  const answer = await scenarios[process.argv[2]](JSON.parse(readFileSync(0, 'utf8')));
  process.stdout.write(JSON.stringify(answer));
}

main();
