// Node's `ws` against a running `ringwire serve --max-message-bytes 16777216 --idle-ms 400 --pong-ms 3000`.
//
//   node peer.cjs http://127.0.0.1:PORT PID [compressed]
//
// The server runs with --compress if `compressed` is said. The last check ends the server (PID) with SIGTERM.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const WebSocket = require('ws');
const { check, run, within } = require('../checks.cjs');

const [base, pid] = [process.argv[2], Number(process.argv[3])];
const compressed = process.argv[4] === 'compressed';
const url = base.replace('http', 'ws') + '/echo';
const MAX_MESSAGE_BYTES = 16 << 20;

async function open(options, protocols = []) {
  const ws = new WebSocket(url, protocols, options);
  await once(ws, 'open');
  return ws;
}

/// The next message, text as a string.
async function next(ws) {
  const [data, isBinary] = await once(ws, 'message');
  return isBinary ? data : data.toString('utf8');
}

async function echo(ws, message) {
  const answer = next(ws);
  ws.send(message);
  assert.deepEqual(await answer, message);
}

/// How the connection ends: [code, reason].
async function closed(ws) {
  const [code, reason] = await once(ws, 'close');
  return [code, reason.toString()];
}

async function close(ws, ...args) {
  const end = closed(ws);
  ws.close(...args);
  return end;
}

check('text', async () => {
  const ws = await open();
  await echo(ws, 'Hello, Wörld! 你好 👋');
  assert.deepEqual(await close(ws, 1000), [1000, '']);
});

check('binary', async () => {
  const ws = await open();
  for (const size of [1, 125, 126, 65_535, 65_536, 1 << 20]) {
    await echo(ws, crypto.randomBytes(size));
  }
  await close(ws);
});

check('empty', async () => {
  const ws = await open();
  await echo(ws, '');
  await echo(ws, Buffer.alloc(0));
  await close(ws);
});

check('a message of 16 MiB', async () => {
  const ws = await open();
  await echo(ws, crypto.randomBytes(MAX_MESSAGE_BYTES));
  await close(ws);
});

check('fragments with a ping between', async () => {
  const ws = await open();
  const answer = next(ws);
  const pong = once(ws, 'pong');
  ws.send('frag', { fin: false });
  ws.send('', { fin: false });
  ws.ping('between');
  ws.send('ments', { fin: true });
  assert.equal((await pong)[0].toString(), 'between');
  assert.equal(await answer, 'fragments');
  await close(ws);
});

check('our ping, its pong', async () => {
  const ws = await open();
  for (const payload of [Buffer.alloc(0), Buffer.from('tick'), crypto.randomBytes(125)]) {
    const pong = once(ws, 'pong');
    ws.ping(payload);
    assert.deepEqual((await pong)[0], payload);
  }
  await close(ws);
});

check('its ping, our pong', async () => {
  const ws = await open();
  await within(6_000, once(ws, 'ping'), 'after --idle-ms');
  // Another comes only if the pong to the first was taken for a sign of life.
  await within(9_000, once(ws, 'ping'), 'after --pong-ms');
  await echo(ws, 'still here');
  await close(ws);
});

check('200 connections at once', async () => {
  const sockets = await Promise.all(Array.from({ length: 200 }, () => open()));
  await Promise.all(sockets.map(async (ws, index) => {
    const expected = Array.from({ length: 20 }, (_, n) => `${index}/${n} ${'x'.repeat(n * 37)}`);
    const got = [];
    const all = new Promise((resolve) => ws.on('message', (data) => {
      got.push(data.toString());
      if (got.length === expected.length) resolve();
    }));
    for (const message of expected) ws.send(message);
    await all;
    assert.deepEqual(got, expected);
    assert.deepEqual(await close(ws, 1000), [1000, '']);
  }));
});

check('close codes come back', async () => {
  assert.deepEqual(await close(await open()), [1005, '']);
  assert.deepEqual(await close(await open(), 1000), [1000, '']);
  assert.deepEqual(await close(await open(), 4001, 'that is all'), [4001, '']);
});

check('messages before the close are answered', async () => {
  const ws = await open();
  const got = [];
  ws.on('message', (data) => got.push(data.toString()));
  for (let n = 0; n < 100; n += 1) ws.send(String(n));
  assert.deepEqual(await close(ws, 1000), [1000, '']);
  assert.deepEqual(got, Array.from({ length: 100 }, (_, n) => String(n)));
});

check(`compression offered, and ${compressed ? 'agreed' : 'declined'}`, async () => {
  const ws = await open({ perMessageDeflate: { threshold: 0 } });
  assert.match(ws.extensions, compressed ? /^permessage-deflate/ : /^$/);
  for (const size of [0, 1, 10_000, 1 << 20]) await echo(ws, 'äbc'.repeat(size));
  const received = ws._socket.bytesRead;
  assert.ok(compressed ? received < 1 << 18 : received > 1 << 20, `${received} bytes came back`);
  await close(ws);
  const bare = await open({ perMessageDeflate: false });
  assert.equal(bare.extensions, '');
  await echo(bare, 'a'.repeat(10_000));
  await close(bare);
});

check('bad UTF-8: 1007', async () => {
  const ws = await open();
  const end = closed(ws);
  ws.send(Buffer.from([0x6f, 0x6b, 0xff]), { binary: false });
  assert.equal((await end)[0], 1007);
});

check('too big: 1009', async () => {
  const ws = await open();
  const end = closed(ws);
  ws.send(Buffer.alloc(MAX_MESSAGE_BYTES + 1));
  assert.equal((await end)[0], 1009);
});

check('an unmasked frame: 1002', async () => {
  const ws = await open();
  const end = closed(ws);
  ws.send('bare', { mask: false });
  assert.equal((await end)[0], 1002);
});

check('no subprotocol is chosen', async () => {
  const ws = await open();
  assert.equal(ws.protocol, '');
  await close(ws);
  // A client that offers some has to fail then, and `ws` does.
  await assert.rejects(open({}, ['chat', 'superchat']), /no subprotocol/);
});

check('upgrade refused on another path', async () => {
  const ws = new WebSocket(`${base.replace('http', 'ws')}/nowhere`);
  const [error] = await once(ws, 'error');
  assert.match(error.message, /404/);
});

check('HTTP on the same port', async () => {
  const health = await fetch(`${base}/healthz`);
  assert.equal(health.status, 200);
  assert.equal(await health.text(), 'ok\n');
  const page = await fetch(`${base}/`);
  assert.equal(page.status, 200);
  assert.match(page.headers.get('content-type'), /^text\/html/);
  assert.equal((await fetch(`${base}/nowhere`)).status, 404);
  assert.equal((await fetch(`${base}/`, { method: 'POST', body: 'x' })).status, 405);
  const metrics = await (await fetch(`${base}/metrics`)).text();
  assert.match(metrics, /^ringwire_upgrades_total\{shard="0"\} \d+$/m);
});

check('nothing was dropped, nothing is left', async () => {
  const sum = (text, name) => [...text.matchAll(new RegExp(`^${name}\\{.*\\} (\\d+)$`, 'gm'))]
    .reduce((total, match) => total + Number(match[1]), 0);
  let open = -1;
  for (let tries = 0; tries < 50 && open !== 0; tries += 1) {
    const metrics = await (await fetch(`${base}/metrics`)).text();
    assert.equal(sum(metrics, 'ringwire_messages_dropped_total'), 0);
    assert.ok(sum(metrics, 'ringwire_upgrades_total') > 200);
    open = sum(metrics, 'ringwire_websockets');
    await sleep(100);
  }
  assert.equal(open, 0);
});

check('SIGTERM: 1001 to all', async () => {
  const sockets = await Promise.all(Array.from({ length: 50 }, () => open()));
  await Promise.all(sockets.map((ws) => echo(ws, 'before')));
  const ends = sockets.map(closed);
  process.kill(pid, 'SIGTERM');
  for (const [code] of await Promise.all(ends)) assert.equal(code, 1001);
});

run(`Node ${process.versions.node}, ws ${require('ws/package.json').version}${compressed ? ', compressed' : ''}`);
