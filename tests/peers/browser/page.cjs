// Headless Chromium on the page of `ringwire serve`.
//
//   node page.cjs RINGWIRE DRIVER CHROMIUM SCREENSHOT_DIR [tls]
//
// Starts and restarts the server itself. Leaves SCREENSHOT_DIR/page-DRIVER.png (and -dark, -narrow, …).
// With RINGWIRE_REAL_TIMES=1 the clients wait as long for a dead network as they do elsewhere, not a fifth of it.
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const http = require('node:http');
const path = require('node:path');
const readline = require('node:readline');
const { chromium } = require('playwright-core');
const { check, run, within } = require('../checks.cjs');
const { relay } = require('./relay.cjs');

const [ringwire, driver, executablePath, screenshots, tls] = process.argv.slice(2);
/// Of every page. The server's certificate is its own.
const options = { viewport: { width: 1200, height: 900 }, ignoreHTTPSErrors: Boolean(tls) };
const TOKEN = 'for tests';
const IN_SHORT = process.env.RINGWIRE_REAL_TIMES !== '1';
let server;
let line;
let browser;
let page;
const complaints = [];

/// Starts the server; resolves to its base URL when it listens.
async function start(port) {
  const more = ['--publish-token', TOKEN, '--idle-ms', '1000', '--pong-ms', '2000', ...(tls ? ['--tls'] : [])];
  server = spawn(ringwire, ['serve', '--driver', driver, '--listen', `127.0.0.1:${port}`, ...more], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  server.stderr.on('data', (data) => { said += data; });
  for await (const line of readline.createInterface({ input: server.stdout })) {
    const listening = line.match(/listening on (https?:\/\/\S+)/);
    if (listening) return listening[1];
  }
  throw new Error(`the server did not start: ${said}`);
}

async function stop(signal) {
  const ended = once(server, 'exit');
  server.kill(signal);
  return (await within(10_000, ended, 'the end of the server'))[0];
}

const shot = (name) => page.screenshot({ path: path.join(screenshots, `page-${driver}${name}.png`) });
const status = (text) => page.waitForSelector(`#status:has-text("${text}")`, { timeout: 15_000 });
const logged = (kind, text) =>
  page.waitForSelector(`#log [data-kind="${kind}"]:has-text("${text}")`, { timeout: 5_000 });

check('the page connects and names the driver', async () => {
  const base = await start(0);
  browser = await chromium.launch({
    executablePath,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking'],
  });
  // The certificate is made on the spot.
  page = await browser.newPage(options);
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await page.goto(base);
  await status('Connected');
  await page.waitForSelector(`#driver:has-text("driver ${driver}")`);
});

check('text comes back', async () => {
  await page.fill('#text', 'Grüße, 世界 👋');
  await page.click('#send-text');
  await logged('sent', 'Grüße, 世界 👋');
  await logged('received', 'Grüße, 世界 👋');
});

check('binary comes back', async () => {
  await page.click('#send-binary');
  await logged('received', 'bytes:');
});

check('round trips are charted', async () => {
  await page.setChecked('#auto', true);
  await page.waitForFunction(() => Number(document.querySelector('#rtt-count').textContent) >= 40);
  assert.match(await page.textContent('#rtt-p50'), /^[\d.]+ (µs|ms)$/);
  const painted = () => page.$eval('#rtt-chart', (canvas) => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const colors = new Set();
    let pixels = 0;
    for (let at = 0; at < data.length; at += 4) {
      if (data[at + 3] > 0) pixels += 1;
      if (data[at + 3] === 255) colors.add((data[at] << 16) | (data[at + 1] << 8) | data[at + 2]);
    }
    return { pixels, colors: colors.size, picture: canvas.toDataURL() };
  });
  const before = await painted();
  assert.ok(before.pixels > 1_000 && before.colors >= 3, JSON.stringify({ ...before, picture: '' }));
  await page.waitForTimeout(500);
  assert.notEqual((await painted()).picture, before.picture, 'the chart stands still');
  await shot('');
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.waitForTimeout(200);
  await shot('-dark');
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForTimeout(200);
  await shot('-narrow');
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `a narrow screen scrolls sideways by ${overflow} px`);
});

/// Another page with its chat open.
async function chat(name, base = page.url()) {
  const tab = await browser.newPage(options);
  tab.on('pageerror', (error) => complaints.push(String(error)));
  tab.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
  await tab.goto(new URL('/#chat', base).href);
  await tab.waitForSelector('#chat-state:has-text("Connected by WebSocket")', { timeout: 10_000 });
  await tab.fill('#name', name);
  return {
    tab,
    say: async (text) => {
      await tab.fill('#chat-text', text);
      await tab.press('#chat-text', 'Enter');
    },
    hears: (who, text) => tab.waitForSelector(`#chat-log li:has(b:text-is("${who}")):has(span:text-is("${text}"))`),
  };
}

check('two pages chat, and one that stands still does not hold up the other', async () => {
  const [ann, bob] = [await chat('Ann'), await chat('Bob')];
  await ann.say('Hi Bob');
  await bob.hears('Ann', 'Hi Bob');
  await bob.say('<b>Hi</b> Ann, 世界');
  await ann.hears('Bob', '<b>Hi</b> Ann, 世界');
  // What is written before the answer to the last message comes is kept.
  await ann.tab.evaluate(() => {
    const text = document.getElementById('chat-text');
    text.value = 'one';
    document.getElementById('chat-form').requestSubmit();
    text.value = 'two';
  });
  await ann.hears('Ann', 'one');
  await ann.tab.waitForTimeout(100);
  await ann.tab.press('#chat-text', 'Enter');
  await bob.hears('Ann', 'two');
  const devtools = await bob.tab.context().newCDPSession(bob.tab);
  await devtools.send('Debugger.enable');
  const paused = once(devtools, 'Debugger.paused');
  await devtools.send('Debugger.pause');
  bob.tab.evaluate('0').catch(() => {});
  await within(10_000, paused, 'the pause');
  const took = await ann.tab.evaluate(async () => {
    const { connect } = await import('/ringwire.js');
    const ring = connect();
    await new Promise((resolve) => { ring.addEventListener('state', resolve, { once: true }); });
    const begin = performance.now();
    for (let n = 1; n <= 200; n += 1) await ring.publish('chat/lobby', { name: 'Carl', text: `line ${n}`, at: Date.now() });
    ring.close();
    return performance.now() - begin;
  });
  assert.ok(took < 10_000, `200 messages took ${took} ms`);
  await ann.hears('Carl', 'line 200');
  await devtools.send('Debugger.disable');
  await bob.hears('Carl', 'line 200');
  const lines = await bob.tab.$$eval('#chat-log span', (spans) => spans.map((span) => span.textContent));
  const numbered = lines.filter((line) => /^line \d+$/.test(line));
  assert.deepEqual(numbered, Array.from({ length: 200 }, (_, n) => `line ${n + 1}`));
  // Whoever comes later is told what was said.
  const dora = await chat('Dora');
  await dora.hears('Carl', 'line 1');
  for (const { tab } of [ann, bob, dora]) await tab.close();
});

check('the ticker is drawn', async () => {
  await page.setViewportSize({ width: 1200, height: 900 });
  await page.emulateMedia({ colorScheme: 'light' });
  await page.click('#tab-ticker');
  await page.waitForFunction(() => Number(document.querySelector('#price-rate').textContent) > 5, null, { timeout: 10_000 });
  assert.match(await page.textContent('#price'), /^\d+\.\d\d$/);
  await shot('-ticker');
});

check('four ways tell the same, at a price that differs', async () => {
  await page.click('#tab-ways');
  const numbers = () => page.evaluate(() => Object.fromEntries(
    ['polling', 'long-polling', 'events', 'websocket'].map((way) => {
      const value = (what) => Number(document.querySelector(`#${way}-${what}`).textContent.replace(/[^\d.]/g, ''));
      return [way, { messages: value('messages'), requests: value('requests'), each: value('each'), p50: value('p50') }];
    })));
  await page.waitForFunction(() => Number(document.querySelector('#polling-messages').textContent) >= 16, null, { timeout: 20_000 });
  const ways = await numbers();
  await shot('-ways');
  for (const way of Object.values(ways)) assert.ok(Math.abs(way.messages - ways.websocket.messages) <= 8, JSON.stringify(ways));
  assert.equal(ways.websocket.requests, 1);
  assert.equal(ways.events.requests, 1);
  assert.ok(ways['long-polling'].requests > ways.polling.requests, JSON.stringify(ways));
  assert.ok(ways.websocket.each < ways.events.each && ways.events.each < ways.polling.each, JSON.stringify(ways));
  assert.ok(ways.polling.p50 > 100 && ways.websocket.p50 < 100, JSON.stringify(ways));
  assert.equal(await page.textContent('#ways-error'), '');
  for (const tab of ['chat', 'ticker', 'ways', 'echo']) {
    await page.setViewportSize({ width: 390, height: 844 });
    await page.click(`#tab-${tab}`);
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `a narrow screen scrolls sideways by ${overflow} px at ${tab}`);
  }
  await page.setViewportSize({ width: 1200, height: 900 });
  await status('Connected');
});

check('no errors so far', async () => {
  assert.equal(await page.locator('#log [data-kind="error"]').count(), 0);
  assert.deepEqual(complaints, []);
});

/// In what the server sends: a fifth of the times after which clients count a network as dead.
const HURRY = [['SILENCE_MS = 25000', 'SILENCE_MS =  5000'], ['ANSWER_MS = 10000', 'ANSWER_MS =  2000']];

async function publish(topic, data) {
  const url = new URL(`/topics/${topic}`, page.url());
  const headers = { Authorization: `Bearer ${TOKEN}` };
  const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(data) });
  assert.equal(response.status, 200);
  return (await response.json()).id;
}

async function metric(pattern) {
  const text = await (await fetch(new URL('/metrics', page.url()))).text();
  const lines = text.split('\n').filter((line) => pattern.test(line));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
}

// Within TLS `fetch` would have to be told of the certificate, and the cut would be the same.
if (!tls) check('a cut network is noticed by both ends, and what was missed comes after', async () => {
  line = await relay(Number(new URL(page.url()).port), IN_SHORT ? HURRY : []);
  const base = `http://127.0.0.1:${line.port}/`;
  const [eve, fay] = [await chat('Eve', base), await chat('Fay')];
  const echo = await browser.newPage(options);
  await echo.goto(base);
  const echoIs = (text, timeout) => echo.waitForSelector(`#status:has-text("${text}")`, { timeout });
  await echoIs('Connected', 10_000);
  // Two more clients in Eve's page: one that listens to more than is kept, and one without a WebSocket.
  await eve.tab.evaluate(async (token) => {
    const { connect } = await import('/ringwire.js');
    const follow = async (name, options) => {
      const told = window[name] = { heard: [], gaps: [], states: [] };
      const ring = told.ring = connect('/topics', options);
      const note = () => told.states.push(ring.transport ?? ring.state);
      ring.addEventListener('state', note);
      ring.addEventListener('gap', ({ detail }) => told.gaps.push(detail));
      const begun = new Promise((resolve) => { ring.addEventListener('subscribed', resolve, { once: true }); });
      ring.subscribe('cut/much', (data, { id }) => told.heard.push({ data, id }));
      await begun;
    };
    await follow('bySocket', {});
    await follow('byEvents', { transport: 'events', token });
    // Says when its answer came, or what came of it.
    window.speak = (name, data) => {
      const begin = performance.now();
      const took = () => performance.now() - begin;
      return window[name].ring.publish('cut/said', data)
        .then((id) => ({ id, took: took() }), (error) => ({ error: error.message, took: took() }));
    };
  }, TOKEN);
  await fay.say('still here');
  await eve.hears('Fay', 'still here');
  await publish('cut/much', 'before');
  for (const name of ['bySocket', 'byEvents']) {
    await eve.tab.waitForFunction((name) => window[name].heard.length === 1, name);
  }
  const open = () => metric(/^ringwire_connections\{.*state="open"/);
  const silent = () => metric(/^ringwire_timeouts_total\{.*deadline="pong"/);
  const [openBefore, silentBefore] = [await open(), await silent()];

  line.cut();
  const cutAt = Date.now();
  const said = await Promise.all(['bySocket', 'byEvents'].map((name) =>
    eve.tab.evaluate((name) => window.speak(name, 'into the void'), name)));
  for (const { error } of said) assert.match(error, /whether it was published is not known/);
  // Eve's and the echo's sockets, two of the page's clients; the streams only break when the kernel says so.
  await within(20_000, (async () => {
    while ((await silent()) < silentBefore + 4) await page.waitForTimeout(100);
  })(), 'the end of four connections at the server');
  assert.ok((await open()) <= openBefore - 4, `${await open()} of ${openBefore} are open`);
  await eve.tab.waitForSelector('#chat-state:is([data-state="waiting"], [data-state="connecting"])', { timeout: 45_000 });
  await echo.waitForSelector('#log [data-kind="state"]:has-text("no answer for")', { timeout: 45_000 });
  const noticed = Date.now() - cutAt;
  await eve.tab.waitForFunction(() => window.byEvents.states.includes('waiting'), null, { timeout: 45_000 });
  assert.equal(await eve.tab.isDisabled('#chat-send'), true);
  // Others go on, and what they say is more than is kept of one topic and less than is kept of the other.
  for (let n = 1; n <= 3; n += 1) await fay.say(`meanwhile ${n}`);
  await fay.hears('Fay', 'meanwhile 3');
  let last;
  for (let n = 1; n <= 300; n += 1) last = await publish('cut/much', n);
  // Until no WebSocket seems to get through, which must not be the last word.
  await eve.tab.waitForFunction(() => window.bySocket.states.filter((state) => state === 'waiting').length >= 3,
    null, { timeout: 60_000 });
  await eve.tab.screenshot({ path: path.join(screenshots, `page-${driver}-cut.png`) });
  await echo.screenshot({ path: path.join(screenshots, `page-${driver}-cut-echo.png`) });

  const swallowed = line.mend();
  const mendedAt = Date.now();
  assert.ok(swallowed > 0, 'nothing was tried during the cut');
  await eve.tab.waitForSelector('#chat-state:has-text("Connected")', { timeout: 60_000 });
  await eve.hears('Fay', 'meanwhile 3');
  await eve.tab.waitForSelector('#chat-state:has-text("Connected by WebSocket")', { timeout: 30_000 });
  const back = Date.now() - mendedAt;
  await eve.say('back again');
  await fay.hears('Eve', 'back again');
  await fay.say('welcome');
  await eve.hears('Fay', 'welcome');
  const lines = await eve.tab.$$eval('#chat-log li', (items) => items.map((item) => item.querySelector('span').textContent));
  assert.deepEqual(lines.slice(-6), ['still here', 'meanwhile 1', 'meanwhile 2', 'meanwhile 3', 'back again', 'welcome']);
  for (const [name, transport] of [['bySocket', 'websocket'], ['byEvents', 'events']]) {
    await eve.tab.waitForFunction(([name, transport]) => window[name].ring.transport === transport,
      [name, transport], { timeout: 60_000 });
    const answer = await eve.tab.evaluate((name) => window.speak(name, 'heard'), name);
    assert.ok(answer.id, JSON.stringify(answer));
    await eve.tab.waitForFunction(([name, id]) => window[name].heard.at(-1).id >= id, [name, last]);
    const { heard, gaps } = await eve.tab.evaluate((name) => ({ heard: window[name].heard, gaps: window[name].gaps }), name);
    // 256 are kept; the gap is told, and each of them comes once.
    assert.deepEqual(gaps, [{ topic: 'cut/much', id: last - 256 }]);
    assert.deepEqual(heard.map(({ data }) => data), ['before', ...Array.from({ length: 256 }, (_, n) => n + 45)]);
  }
  await echoIs('Connected', 60_000);
  await echo.fill('#text', 'over the mended line');
  await echo.click('#send-text');
  await echo.waitForSelector('#log [data-kind="received"]:has-text("over the mended line")');
  await eve.tab.screenshot({ path: path.join(screenshots, `page-${driver}-mended.png`) });
  await echo.screenshot({ path: path.join(screenshots, `page-${driver}-mended-echo.png`) });
  const took = said.map(({ took }) => Math.round(took));
  console.log(`cut: publishing given up after ${took} ms, noticed by all pages after ${noticed} ms, back ${back} ms after the end`);
  for (const tab of [eve.tab, fay.tab, echo]) await tab.close();
  // Its dead ends answer nothing: a drain would wait for them.
  line.close();
});

check("another origin's page gets 403", async () => {
  const foreign = http.createServer((_, response) => {
    response.setHeader('Content-Type', 'text/html');
    response.end('<!doctype html><title>elsewhere</title>');
  });
  await once(foreign.listen(0, '127.0.0.1'), 'listening');
  const tab = await browser.newPage(options);
  await tab.goto(`http://127.0.0.1:${foreign.address().port}/`);
  // A page is not told why; the console is.
  const told = tab.waitForEvent('console', (message) => message.text().includes('WebSocket'));
  const target = new URL('/echo', page.url()).href.replace('http', 'ws');
  const outcome = await tab.evaluate((url) => new Promise((resolve) => {
    const ws = new WebSocket(url);
    ws.onopen = () => resolve('open');
    ws.onclose = (event) => resolve(event.code);
  }), target);
  assert.equal(outcome, 1006);
  assert.match((await told).text(), /Unexpected response code: 403/);
  await tab.close();
  foreign.close();
});

check('a restarted server is found again', async () => {
  const port = Number(new URL(page.url()).port);
  assert.equal(await stop('SIGTERM'), 0);
  await logged('state', 'closed with 1001');
  await status('Waiting');
  await start(port);
  await status('Connected');
  await page.fill('#text', 'again');
  await page.click('#send-text');
  await logged('received', 'again');
  assert.equal(await stop('SIGKILL'), null);
  await logged('state', 'closed with 1006');
  await start(port);
  await status('Connected');
});

run(`Chromium on ${driver}`, {
  timeout: IN_SHORT ? 90_000 : 240_000,
  cleanup: async () => {
    line?.close();
    console.log(`Chromium ${browser?.version()}, screenshots in ${path.relative('.', screenshots)}`);
    await browser?.close();
    if (server?.exitCode === null && server.signalCode === null) await stop('SIGTERM');
  },
});
