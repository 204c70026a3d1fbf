// The browser client ringwire.js in Node: restarts of the server, lost connections, blocked WebSockets.
//
//   node client.mjs RINGWIRE DRIVER
//
// Starts and restarts the server itself; a proxy in front of it cuts and blocks.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import net from 'node:net';
import readline from 'node:readline';

const require = createRequire(import.meta.url);
const { check, run, within } = require('../checks.cjs');
const { WebSocket } = require('ws');

const [ringwire, driver] = process.argv.slice(2);
const TOKEN = 'for tests';
let server;
let port; // of the server, the same after a restart
let connect; // of the client
let proxy;
const rings = [];

async function start() {
  const args = ['serve', '--driver', driver, '--listen', `127.0.0.1:${port ?? 0}`, '--publish-token', TOKEN];
  server = spawn(ringwire, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  for await (const line of readline.createInterface({ input: server.stdout })) {
    const listening = line.match(/listening on http:\/\/127\.0\.0\.1:(\d+)/);
    if (listening) return void (port = Number(listening[1]));
  }
  throw new Error('the server did not start');
}

async function stop(signal) {
  const ended = once(server, 'exit');
  server.kill(signal);
  await within(10_000, ended, 'the end of the server');
}

/// Passes bytes on, unless it is told to cut, to swallow, or to refuse upgrades.
async function startProxy() {
  const sockets = new Set();
  const state = { port: 0, blocked: false, dead: false, upgrades: 0, cut: () => sockets.forEach((s) => s.destroy()) };
  const listener = net.createServer((client) => {
    sockets.add(client);
    const upstream = net.connect(port, '127.0.0.1');
    client.once('data', (first) => {
      const isUpgrade = /^upgrade: websocket/im.test(first.toString('latin1'));
      state.upgrades += isUpgrade;
      if (isUpgrade && state.blocked) return client.end('HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n');
      upstream.write(first);
      client.on('data', (data) => state.dead || upstream.write(data));
      upstream.on('data', (data) => state.dead || client.write(data));
    });
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      from.on('error', () => {});
      from.on('close', () => { to.destroy(); sockets.delete(client); });
    }
  });
  await once(listener.listen(0, '127.0.0.1'), 'listening');
  state.port = listener.address().port;
  state.close = () => { listener.close(); state.cut(); };
  return state;
}

function open(through, options = {}) {
  const ring = connect(`http://127.0.0.1:${through}/topics`, { WebSocket, ...options });
  rings.push(ring);
  return ring;
}

const became = (ring, state) => new Promise((resolve) => {
  if (ring.state === state) return resolve();
  const listen = () => {
    if (ring.state !== state) return;
    ring.removeEventListener('state', listen);
    resolve();
  };
  ring.addEventListener('state', listen);
});

/// All messages of a topic, and a promise of the time when there are so many.
function listen(ring, topic, options) {
  const heard = [];
  let wake = () => {};
  ring.subscribe(topic, (data, { id }) => { heard.push({ id, data }); wake(); }, options);
  heard.are = (count) => within(15_000, new Promise((resolve) => {
    wake = () => heard.length >= count && resolve();
    wake();
  }), `message ${count} of ${topic}`);
  return heard;
}

const subscribed = (ring, topic) => new Promise((resolve) => {
  ring.addEventListener('subscribed', ({ detail }) => detail.topic === topic && resolve());
});

const data = (heard) => heard.map((message) => message.data);

/// A check after which no client is left.
function test(name, body) {
  check(name, async () => {
    try {
      await body();
    } finally {
      rings.splice(0).forEach((ring) => ring.close());
      Object.assign(proxy, { blocked: false, dead: false });
    }
  });
}

test('the client is served', async () => {
  await start();
  proxy = await startProxy();
  const source = await (await fetch(`http://127.0.0.1:${port}/ringwire.js`)).text();
  ({ connect } = await import(`data:text/javascript,${encodeURIComponent(source)}`));
  assert.equal(globalThis.ringwire.connect, connect);
});

test('messages reach all listeners once, in order', async () => {
  const [a, b] = [open(proxy.port), open(proxy.port)];
  const [one, two] = [listen(a, 'room/1'), listen(b, 'room/1')];
  const twice = listen(a, 'room/1');
  await Promise.all([subscribed(a, 'room/1'), subscribed(b, 'room/1')]);
  assert.equal(a.transport, 'websocket');
  const ids = [];
  for (let n = 0; n < 50; n += 1) ids.push(await a.publish('room/1', n));
  await Promise.all([one.are(50), two.are(50), twice.are(50)]);
  assert.deepEqual(data(two), data(one));
  assert.deepEqual(one.map(({ id }) => id), ids);
  assert.deepEqual(data(one), [...Array(50).keys()]);
  await assert.rejects(a.publish('demo/clock', 1), /server's own/);
  await assert.rejects(a.publish('', 1), /1 to 200 bytes/);
  await assert.rejects(a.publish('room/1', undefined), TypeError);
});

test('a refused subscription is told', async () => {
  const ring = open(proxy.port);
  const refused = once(ring, 'refused');
  ring.subscribe('a\nb', () => {});
  assert.equal((await refused)[0].detail.topic, 'a\nb');
});

test('who has ended a subscription hears nothing', async () => {
  const ring = open(proxy.port);
  await became(ring, 'open');
  const heard = [];
  let end;
  // The answer to a publication does not wait for its delivery.
  await within(15_000, new Promise((resolve) => {
    end = ring.subscribe('room/2', (value) => { heard.push(value); resolve(); });
    ring.publish('room/2', 'heard');
  }), 'the message');
  end();
  await ring.publish('room/2', 'not heard');
  const other = listen(ring, 'room/3');
  await ring.publish('room/3', 'and on');
  await other.are(1);
  assert.deepEqual(heard, ['heard']);
});

test('what is sent while the connection is cut comes after', async () => {
  const [ring, publisher] = [open(proxy.port), open(port)];
  await Promise.all([became(ring, 'open'), became(publisher, 'open')]);
  const heard = listen(ring, 'cut');
  await subscribed(ring, 'cut');
  await publisher.publish('cut', 0);
  await heard.are(1);
  for (let n = 1; n <= 30; n += 1) {
    if (n % 10 === 5) proxy.cut();
    await publisher.publish('cut', n);
  }
  await heard.are(31);
  assert.deepEqual(data(heard), [...Array(31).keys()]);
});

test('a gap is told', async () => {
  const publisher = open(port);
  await became(publisher, 'open');
  const first = await publisher.publish('gap', 0);
  for (let n = 1; n < 300; n += 1) await publisher.publish('gap', n);
  const ring = open(proxy.port);
  const gap = once(ring, 'gap');
  const heard = listen(ring, 'gap', { after: first });
  const [{ detail }] = await within(5_000, gap, 'gap');
  assert.deepEqual(detail, { topic: 'gap', id: first + 299 - 256 });
  await heard.are(256);
  assert.equal(heard[0].id, detail.id + 1);
});

test('a restarted server is found again, and the gap is told', async () => {
  const ring = open(port);
  const heard = listen(ring, 'restart');
  await became(ring, 'open');
  await ring.publish('restart', 'before');
  await heard.are(1);
  const gap = once(ring, 'gap');
  await stop('SIGKILL');
  await became(ring, 'waiting');
  await assert.rejects(ring.publish('restart', 'meanwhile'), /not connected/);
  await start();
  await within(20_000, became(ring, 'open'), 'the connection');
  assert.equal((await within(5_000, gap, 'gap'))[0].detail.topic, 'restart');
  await ring.publish('restart', 'after');
  await heard.are(2);
  assert.deepEqual(data(heard), ['before', 'after']);
  assert.ok(heard[1].id > heard[0].id, 'ids go on increasing');
});

test('where WebSockets are blocked events and POST carry the same', async () => {
  proxy.blocked = true;
  const before = proxy.upgrades;
  const ring = open(proxy.port, { token: TOKEN });
  const heard = listen(ring, 'blocked/by a proxy');
  await within(15_000, became(ring, 'open'), 'events');
  assert.equal(ring.transport, 'events');
  assert.equal(proxy.upgrades - before, 2);
  const [other, second] = [listen(ring, 'blocked/2'), subscribed(ring, 'blocked/2')];
  await ring.publish('blocked/by a proxy', 'ä\nö');
  await heard.are(1);
  const publisher = open(port);
  await Promise.all([second, became(publisher, 'open')]);
  await publisher.publish('blocked/2', 'first');
  await other.are(1);
  proxy.cut();
  await publisher.publish('blocked/by a proxy', 'meanwhile');
  await publisher.publish('blocked/2', 'second');
  await Promise.all([heard.are(2), other.are(2)]);
  assert.deepEqual([data(heard), data(other)], [['ä\nö', 'meanwhile'], ['first', 'second']]);
  await assert.rejects(open(proxy.port, { transport: 'events' }).publish('x', 1), /not connected/);
});

test('events are chosen by name, and without a token nothing is published', async () => {
  const ring = open(proxy.port, { transport: 'events' });
  await became(ring, 'open');
  assert.equal(ring.transport, 'events');
  await assert.rejects(ring.publish('room/1', 1), /token/);
});

test('a dead link is noticed by silence', async () => {
  // The same source with shorter times.
  const source = await (await fetch(`http://127.0.0.1:${port}/ringwire.js`)).text();
  const short = source.replace('SILENCE_MS = 25000', 'SILENCE_MS = 300').replace('ANSWER_MS = 10000', 'ANSWER_MS = 400');
  assert.notEqual(short, source);
  const impatient = await import(`data:text/javascript,${encodeURIComponent(short)}`);
  const ring = impatient.connect(`ws://127.0.0.1:${proxy.port}/topics`, { WebSocket });
  rings.push(ring);
  await became(ring, 'open');
  // Pings keep it open.
  await new Promise((resolve) => { setTimeout(resolve, 1_500); });
  assert.equal(ring.state, 'open');
  proxy.dead = true;
  await within(5_000, became(ring, 'waiting'), 'the loss');
  proxy.dead = false;
  await within(5_000, became(ring, 'open'), 'another connection');
  ring.close();
  assert.equal(ring.state, 'closed');
});

run(`ringwire.js on ${driver}`, {
  timeout: 60_000,
  cleanup: async () => {
    proxy?.close();
    if (server?.exitCode === null && server.signalCode === null) await stop('SIGTERM');
  },
});
