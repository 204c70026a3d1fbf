// The tabs of the page of `ringwire serve` beside the echo: a chat, a ticker, and four ways to the same feed.
// What they show comes from /topics, by ringwire.js.
import { connect } from "/ringwire.js";

const $ = (id) => document.getElementById(id);

// ---- Tabs: one panel is shown; the address remembers which.

const TABS = ["echo", "chat", "ticker", "ways"];
const entered = { chat: () => {}, ticker: () => {}, ways: () => {}, echo: () => {} };
const left = { ...entered };

function show(tab) {
  const before = document.body.dataset.tab;
  if (before === tab) return;
  document.body.dataset.tab = tab;
  for (const name of TABS) {
    $("panel-" + name).hidden = name !== tab;
    $("tab-" + name).ariaSelected = String(name === tab);
    $("tab-" + name).tabIndex = name === tab ? 0 : -1;
  }
  left[before]?.();
  entered[tab]();
  dispatchEvent(new Event("resize")); // charts that were hidden have a size now
}

for (const [at, name] of TABS.entries()) {
  $("tab-" + name).onclick = () => { location.hash = name; };
  $("tab-" + name).onkeydown = ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: TABS.length - 1 }[key];
    if (!step) return;
    const next = TABS[(at + step) % TABS.length];
    location.hash = next;
    $("tab-" + next).focus();
  };
}

const chosen = () => (TABS.includes(location.hash.slice(1)) ? location.hash.slice(1) : "echo");
addEventListener("hashchange", () => show(chosen()));

// ---- One client for chat and ticker, from the first use on.

let ring = null;

function client() {
  ring ??= connect();
  return ring;
}

const STATES = { connecting: "Connecting", open: "Connected", waiting: "Waiting", closed: "Closed" };

function showState(pill, changed = () => {}) {
  const tell = () => {
    const { state, transport } = client();
    changed(state);
    $(pill).dataset.state = state;
    $(pill).textContent = STATES[state] + (transport ? " by " + { websocket: "WebSocket", events: "events" }[transport] : "");
  };
  client().addEventListener("state", tell);
  tell();
}

// ---- Chat: a topic for each room; whoever comes is told what was said before.

let leave = null;

function enterRoom() {
  leave?.();
  const room = $("room").value.trim() || "lobby";
  $("room").value = room;
  $("chat-log").replaceChildren();
  leave = client().subscribe("chat/" + room, (data) => say(data), { after: 0 });
}

function say({ name, text, at }) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date(at).toTimeString().slice(0, 5);
  const who = document.createElement("b");
  who.textContent = String(name).slice(0, 40);
  if (name === $("name").value) line.dataset.kind = "own";
  const what = document.createElement("span");
  what.textContent = String(text).slice(0, 2000);
  line.append(time, who, what);
  const list = $("chat-log");
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(line);
  while (list.childElementCount > 500) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

entered.chat = () => {
  if (leave) return;
  $("name").value ||= "guest " + Math.floor(Math.random() * 900 + 100);
  showState("chat-state", (state) => { $("chat-send").disabled = state !== "open"; });
  enterRoom();
};

$("room-form").onsubmit = (event) => { event.preventDefault(); enterRoom(); };
$("chat-form").onsubmit = async (event) => {
  event.preventDefault();
  const text = $("chat-text").value.trim();
  if (!text) return;
  $("chat-error").textContent = "";
  // At once: what is written until the answer comes is the next message.
  $("chat-text").value = "";
  try {
    await client().publish("chat/" + $("room").value, { name: $("name").value, text, at: Date.now() });
  } catch (error) {
    $("chat-error").textContent = error.message;
    $("chat-text").value ||= text;
  }
};

// ---- Ticker: prices of the last 30 seconds.

const TICKER_MS = 30000;
let prices = []; // { t, price }, oldest first
let stopTicker = null;
let drawing = 0;

entered.ticker = () => {
  if (!stopTicker) showState("ticker-state");
  prices = [];
  stopTicker = client().subscribe("demo/ticker", (data) => {
    prices.push(data);
    while (prices[0].t < data.t - TICKER_MS) prices.shift();
  });
  drawing = requestAnimationFrame(drawTicker);
};

left.ticker = () => {
  cancelAnimationFrame(drawing);
  stopTicker();
};

function drawTicker() {
  drawing = requestAnimationFrame(drawTicker);
  const canvas = $("ticker-chart");
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const last = prices.at(-1);
  if (!last) return;
  const values = prices.map(({ price }) => price);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  $("price").textContent = last.price.toFixed(2);
  $("price-low").textContent = low.toFixed(2);
  $("price-high").textContent = high.toFixed(2);
  const span = (last.t - prices[0].t) / 1000;
  $("price-rate").textContent = span > 1 ? ((prices.length - 1) / span).toFixed(1) : "–";

  const g = canvas.getContext("2d");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const box = { left: 56, right: width - 12, top: 10, bottom: height - 12 };
  const margin = Math.max(0.05, (high - low) * 0.1);
  const x = (t) => box.right - (last.t - t) / TICKER_MS * (box.right - box.left);
  const y = (price) => box.bottom - (price - low + margin) / (high - low + 2 * margin) * (box.bottom - box.top);
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.font = "12px system-ui, sans-serif";
  g.textBaseline = "middle";
  g.textAlign = "right";
  for (let step = 0; step <= 4; step += 1) {
    const price = low + (high - low) * step / 4;
    g.strokeStyle = color("--line");
    g.fillStyle = color("--soft");
    g.beginPath();
    g.moveTo(box.left, y(price));
    g.lineTo(box.right, y(price));
    g.stroke();
    g.fillText(price.toFixed(2), box.left - 8, y(price));
  }
  g.strokeStyle = g.fillStyle = color("--accent");
  g.lineWidth = 2;
  g.lineJoin = "round";
  g.beginPath();
  for (const { t, price } of prices) g.lineTo(x(t), y(price));
  g.stroke();
  g.beginPath();
  g.arc(x(last.t), y(last.price), 4, 0, 7);
  g.fill();
  canvas.ariaLabel = `Prices of the last 30 seconds: now ${last.price}, from ${low} to ${high}`;
}

// ---- Four ways to one feed, at the same time: what each costs, and how late it is.

const FEED = "demo/clock";
const CHUNK_BYTES = 7; // around an event: three digits and two ends of lines
const HANDSHAKE_BYTES = 170; // what a WebSocket's request has beyond another
const ANSWER_BYTES = 129; // the 101 response
const now = () => performance.timeOrigin + performance.now();

let run = null; // { ways, quickest, head, abort }

function way() {
  return { messages: 0, requests: 0, bytes: 0, delays: [] };
}

function arrive(counted, { t }) {
  const after = now() - t;
  run.quickest = Math.min(run.quickest, after);
  counted.messages += 1;
  counted.delays.push(after);
  if (counted.delays.length > 200) counted.delays.shift();
}

// What was sent and received for a response whose body has so many bytes.
function count(counted, path, response, bodyBytes) {
  let head = `HTTP/1.1 ${response.status} ${response.statusText}\r\n\r\n`.length;
  for (const [name, value] of response.headers) head += name.length + value.length + 4;
  counted.requests += 1;
  counted.bytes += run.head + path.length + head + bodyBytes;
}

async function poll(counted, signal, path) {
  const response = await fetch(path, { signal, cache: "no-store" });
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  count(counted, path, response, new TextEncoder().encode(text).length);
  return JSON.parse(text);
}

const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

async function polling(counted, signal, after) {
  while (!signal.aborted) {
    const begin = performance.now();
    const answer = await poll(counted, signal, `/topics/${FEED}?after=${after}&wait=0`);
    answer.messages.forEach(({ data }) => arrive(counted, data));
    after = answer.id;
    await pause(Number($("poll-every").value) - (performance.now() - begin));
  }
}

async function longPolling(counted, signal, after) {
  while (!signal.aborted) {
    const answer = await poll(counted, signal, `/topics/${FEED}?after=${after}`);
    answer.messages.forEach(({ data }) => arrive(counted, data));
    after = answer.id;
  }
}

async function events(counted, signal, after) {
  const path = `/topics/${FEED}?after=${after}`;
  const response = await fetch(path, { signal, cache: "no-store", headers: { Accept: "text/event-stream" } });
  count(counted, path, response, "text/event-stream".length - "*/*".length);
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = response.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return;
    counted.bytes += value.length;
    const parts = (rest + decoder.decode(value, { stream: true })).split("\n\n");
    rest = parts.pop();
    counted.bytes += parts.length * CHUNK_BYTES;
    for (const part of parts) {
      const data = part.match(/^data: (.*)$/m);
      const message = data && JSON.parse(data[1]);
      if (message?.topic) arrive(counted, message.data);
    }
  }
}

function websocket(counted, signal, after) {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/topics`);
    const subscribe = JSON.stringify({ subscribe: FEED, after });
    socket.onopen = () => {
      counted.requests = 1;
      counted.bytes += run.head + "/topics".length + HANDSHAKE_BYTES + ANSWER_BYTES + 6 + subscribe.length;
      socket.send(subscribe);
    };
    socket.onmessage = ({ data }) => {
      counted.bytes += data.length + (data.length < 126 ? 2 : 4);
      const message = JSON.parse(data);
      if (message.topic) arrive(counted, message.data);
    };
    socket.onclose = resolve;
    signal.addEventListener("abort", () => socket.close());
  });
}

const WAYS = { polling, "long-polling": longPolling, events, websocket };

async function startWays() {
  const abort = new AbortController();
  const ways = Object.fromEntries(Object.keys(WAYS).map((name) => [name, way()]));
  run = { ways, quickest: Infinity, head: 0, abort };
  $("ways-start").hidden = true;
  $("ways-stop").hidden = false;
  $("ways-error").textContent = "";
  try {
    run.head = Number(await (await fetch("/head-bytes", { cache: "no-store" })).text()) - "/head-bytes".length;
    // All begin behind the same message.
    const { id } = await (await fetch(`/topics/${FEED}?wait=0`, { cache: "no-store" })).json();
    run.timer = setInterval(showWays, 250);
    const { signal } = abort;
    const all = Object.entries(WAYS).map(([name, begin]) => begin(ways[name], signal, id));
    await Promise.all(all.map((one) => one.catch((error) => {
      if (!signal.aborted) throw error;
    })));
    if (!signal.aborted) throw new Error("a connection has ended: start again");
  } catch (error) {
    if (run?.abort === abort) {
      stopWays();
      $("ways-error").textContent = error.message;
    }
  }
}

function stopWays() {
  if (!run) return;
  clearInterval(run.timer);
  run.abort.abort();
  run = null;
  $("ways-start").hidden = false;
  $("ways-stop").hidden = true;
}

function showWays() {
  const { ways, quickest } = run;
  const rows = Object.entries(ways).map(([name, { messages, requests, bytes, delays }]) => {
    const sorted = delays.map((delay) => delay - quickest).sort((a, b) => a - b);
    const rank = (share) => sorted[Math.ceil(share * sorted.length) - 1];
    return { name, messages, requests, bytes, each: messages ? bytes / messages : 0, p50: rank(0.5), max: sorted.at(-1) };
  });
  const most = Math.max(...rows.map((row) => row.each), 1);
  const latest = Math.max(...rows.map((row) => row.p50 ?? 0), 1);
  for (const { name, messages, requests, bytes, each, p50, max } of rows) {
    const put = (what, text) => { $(`${name}-${what}`).textContent = text; };
    put("messages", messages.toLocaleString("en"));
    put("requests", requests.toLocaleString("en"));
    put("bytes", bytes.toLocaleString("en"));
    put("each", messages ? Math.round(each).toLocaleString("en") + " B" : "–");
    put("p50", p50 === undefined ? "–" : late(p50));
    put("max", max === undefined ? "–" : late(max));
    $(`${name}-each-bar`).style.width = `${each / most * 100}%`;
    $(`${name}-p50-bar`).style.width = `${(p50 ?? 0) / latest * 100}%`;
  }
}

const late = (ms) => (ms < 10 ? ms.toFixed(1) : Math.round(ms).toLocaleString("en")) + " ms";

entered.ways = () => { if (!run) startWays(); };
left.ways = stopWays;
$("ways-start").onclick = startWays;
$("ways-stop").onclick = stopWays;

show(chosen());
