// The browser client of `ringwire serve`'s topics: one file, no build step, nothing loaded from elsewhere.
//
//   <script type="module">
//     import { connect } from "/ringwire.js";
//     const ring = connect();                               // this host's /topics
//     ring.subscribe("room/1", (data, message) => show(data));
//     await ring.publish("room/1", { text: "hello" });
//   </script>
//
// It is an ES module, and defines `globalThis.ringwire` as well, for scripts that are none.
//
// What it does by itself:
// - It connects again when the connection is lost: after 0.5 s at most, then 1 s, 2 s, … 30 s, each time a random
//   part of that, so that the clients of a server that comes back do not come all at once.
// - It notices a dead link by silence: after 25 s without a message it pings, and 10 s after that, or after a message
//   of its own that is not answered, it gives up.
// - It subscribes again where it stopped: what was sent meanwhile comes, each message once and in order, as far
//   as the server keeps it. Where it does not, `gap` tells so: load what you need by other means.
// - It falls back to server-sent events (and POST, with a token) where no WebSocket gets through, and goes on trying one
//   beside them: a network that was cut looks the same for a while.
//
// connect(url, options): `url` is http(s) or ws(s), by default /topics of this page's host.
//   token            for publishing by POST, where WebSockets do not get through
//   transport        "auto" (default), "websocket" or "events"
//   WebSocket, fetch stand in for the host's own; Node before version 22 has no WebSocket
//
// The client (an EventTarget):
//   subscribe(topic, listener, { after })  calls listener(data, { topic, id, data }) for each message; with `after`,
//                    begins behind that id. Returns a function that ends it.
//   publish(topic, data)  a promise of the message's id. It is rejected if the server refuses, or if the connection
//                    is lost before the answer: whether the message was published is not known then.
//   close()          ends it for good.
//   state            "connecting", "open", "waiting" or "closed"
//   transport        "websocket", "events" or null
//   events           "state", detail { state, transport, retryMs }; "subscribed", detail { topic, id }: what is sent after
//                    that id comes; "gap", detail { topic, id }: messages up to that id are missing; "refused", detail
//                    { error, topic }
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 30000;
const STABLE_MS = 5000; // open for so long, a connection's loss starts the backoff anew
const SILENCE_MS = 25000; // then a ping
const ANSWER_MS = 10000; // from a request, or a connection's begin, to any sign of life
const HOPELESS = 2; // WebSockets that never opened before events are tried
const FIRST_TRIAL_MS = 1000; // with events, until a WebSocket is tried beside them; then twice as long
const LONGEST_TRIAL_MS = 300000;

class Ring extends EventTarget {
  #base;
  #options;
  #topics = new Map(); // name → { listeners: Set, last: id of the last message, or undefined }
  #link = null;
  #attempts = 0;
  #failures = 0; // WebSockets in a row that never opened
  #opened = 0;
  #timer = null;
  #trial = null; // a WebSocket beside events, and the timer until the next one
  #trialTimer = null;
  #state = "connecting";

  constructor(url, options) {
    super();
    const base = new URL(url ?? "/topics", globalThis.location?.href);
    base.protocol = base.protocol.replace(/^ws/, "http");
    this.#base = base.href.replace(/\/$/, "");
    this.#options = options;
    this.#connect();
  }

  get state() { return this.#state; }

  get transport() { return this.#state === "open" ? this.#link.transport : null; }

  subscribe(topic, listener, { after } = {}) {
    let known = this.#topics.get(topic);
    if (!known) {
      known = { listeners: new Set(), last: after };
      this.#topics.set(topic, known);
      this.#link?.subscribe(topic, known.last);
    }
    known.listeners.add(listener);
    return () => {
      if (!known.listeners.delete(listener) || known.listeners.size > 0) return;
      this.#topics.delete(topic);
      this.#link?.unsubscribe(topic);
    };
  }

  publish(topic, data) {
    if (data === undefined) return Promise.reject(new TypeError("undefined is no JSON: publish null instead"));
    if (this.#state !== "open") return Promise.reject(new Error("not connected: try again later"));
    return this.#link.publish(topic, JSON.stringify(data));
  }

  close() {
    clearTimeout(this.#timer);
    this.#drop();
    this.#become("closed");
  }

  #connect() {
    this.#become("connecting");
    const { transport = "auto" } = this.#options;
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    const standIn = transport === "auto" && Socket && this.#failures >= HOPELESS;
    const byEvents = transport === "events" || standIn || (transport === "auto" && !Socket);
    this.#opened = 0;
    this.#link = byEvents
      ? new EventsLink(this.#base, this.#options, {
        open: () => {
          this.#open();
          if (standIn) this.#tryBeside(Socket, FIRST_TRIAL_MS);
        },
        lost: () => this.#lost(),
        message: (message) => this.#message(message),
      })
      : this.#socketLink(Socket, () => this.#open(), () => this.#lost());
    this.#link.start(this.#topics);
  }

  #socketLink(Socket, open, lost) {
    const message = (message) => this.#message(message);
    return new SocketLink(this.#base.replace(/^http/, "ws"), Socket, { open, lost, message });
  }

  // Events stand in for a WebSocket, until one opens.
  #tryBeside(Socket, waitMs) {
    this.#trialTimer = setTimeout(() => {
      const link = this.#trial = this.#socketLink(Socket, () => {
        this.#trial = null;
        this.#drop();
        this.#link = link;
        this.#open();
      }, () => {
        if (link === this.#link) return this.#lost();
        link.stop();
        this.#trial = null;
        this.#tryBeside(Socket, Math.min(LONGEST_TRIAL_MS, waitMs * 2));
      });
      link.start();
    }, waitMs * (0.5 + Math.random() / 2));
  }

  #open() {
    this.#opened = Date.now();
    this.#failures = 0;
    this.#become("open");
    for (const [topic, { last }] of this.#topics) this.#link.subscribe(topic, last);
  }

  #lost() {
    if (this.#link.transport === "websocket" && !this.#opened) this.#failures += 1;
    if (this.#opened && Date.now() - this.#opened >= STABLE_MS) this.#attempts = 0;
    this.#drop();
    const most = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    const retryMs = Math.random() * most;
    this.#become("waiting", retryMs);
    this.#timer = setTimeout(() => this.#connect(), retryMs);
  }

  #drop() {
    clearTimeout(this.#trialTimer);
    this.#trial?.stop();
    this.#trial = null;
    this.#link?.stop();
    this.#link = null;
  }

  #message(message) {
    if (message.gap !== undefined) {
      const known = this.#topics.get(message.gap);
      if (known) known.last = message.id;
      return this.#tell("gap", { topic: message.gap, id: message.id });
    }
    if (message.subscribed !== undefined) {
      const known = this.#topics.get(message.subscribed);
      // What was missed is still to come, unless this is the begin.
      if (known) known.last ??= message.id;
      return this.#tell("subscribed", { topic: message.subscribed, id: message.id });
    }
    if (message.error !== undefined) {
      return this.#tell("refused", { error: message.error, topic: message.subscribe });
    }
    const known = this.#topics.get(message.topic);
    if (!known || (known.last !== undefined && message.id <= known.last)) return;
    known.last = message.id;
    for (const listener of [...known.listeners]) listener(message.data, message);
  }

  #become(state, retryMs) {
    this.#state = state;
    this.#tell("state", { state, transport: this.transport, retryMs });
  }

  #tell(type, detail) {
    this.dispatchEvent(Object.assign(new Event(type), { detail }));
  }
}

// One WebSocket, from its begin to its loss.
class SocketLink {
  transport = "websocket";
  #url;
  #Socket;
  #told;
  #socket;
  #timer;
  #awaited; // the time that `#timer` was given
  #published = []; // what awaits its answer, oldest first: the server answers in order

  constructor(url, Socket, told) {
    this.#url = url;
    this.#Socket = Socket;
    this.#told = told;
  }

  start() {
    const socket = this.#socket = new this.#Socket(this.#url);
    socket.onopen = () => {
      this.#await(SILENCE_MS);
      this.#told.open();
    };
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = () => this.#told.lost();
    socket.onerror = () => {}; // onclose follows, and nothing else is told of it
    this.#await(ANSWER_MS);
  }

  stop() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
    for (const { reject } of this.#published.splice(0)) {
      reject(new Error("the connection was lost: whether it was published is not known"));
    }
  }

  subscribe(topic, after) { this.#send({ subscribe: topic, after }); }

  unsubscribe(topic) { this.#send({ unsubscribe: topic }); }

  publish(topic, json) {
    return new Promise((resolve, reject) => {
      this.#published.push({ resolve, reject });
      this.#sendText(`{"publish":${JSON.stringify(topic)},"data":${json}}`);
    });
  }

  #send(request) {
    if (this.#socket.readyState === 1) this.#sendText(JSON.stringify(request));
  }

  // Every request is answered. One that waits already is not given more time by those behind it.
  #sendText(text) {
    this.#socket.send(text);
    if (this.#awaited !== ANSWER_MS) this.#await(ANSWER_MS);
  }

  #receive(message) {
    this.#await(SILENCE_MS);
    if (message.pong !== undefined || message.unsubscribed !== undefined) return;
    if (message.published !== undefined) return this.#published.shift()?.resolve(message.id);
    if (message.publish !== undefined) return this.#published.shift()?.reject(new Error(message.error));
    this.#told.message(message);
  }

  // Something is expected within this time; after silence, the answer to a ping.
  #await(milliseconds) {
    clearTimeout(this.#timer);
    this.#awaited = milliseconds;
    this.#timer = setTimeout(() => {
      if (milliseconds === ANSWER_MS) return this.#told.lost();
      this.#await(ANSWER_MS);
      this.#send({ ping: 0 });
    }, milliseconds);
  }
}

// Server-sent events, one response for each topic, read by fetch: EventSource tells neither a refusal nor silence.
class EventsLink {
  transport = "events";
  #base;
  #fetch;
  #token;
  #told;
  #streams = new Map(); // topic → AbortController
  #stopped = false;

  constructor(base, options, told) {
    this.#base = base;
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.#token = options.token;
    this.#told = told;
  }

  start(topics) {
    // Open as soon as the first stream is, or at once if there is nothing to listen to.
    if (topics.size === 0) return void setTimeout(() => this.#stopped || this.#told.open(), 0);
    const [[topic, { last }]] = topics;
    this.#listen(topic, last, () => this.#told.open());
  }

  stop() {
    this.#stopped = true;
    for (const stream of this.#streams.values()) stream.abort();
  }

  subscribe(topic, after) {
    if (!this.#streams.has(topic)) this.#listen(topic, after, () => {});
  }

  unsubscribe(topic) {
    this.#streams.get(topic)?.abort();
    this.#streams.delete(topic);
  }

  async publish(topic, json) {
    if (!this.#token) throw new Error("no WebSocket gets through, and publishing by POST needs a token");
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${this.#token}` };
    const signal = AbortSignal.timeout(ANSWER_MS);
    try {
      const response = await this.#fetch(this.#url(topic), { method: "POST", headers, body: json, signal });
      if (!response.ok) throw new Error((await response.text()).trim());
      return (await response.json()).id;
    } catch (error) {
      if (!signal.aborted) throw error;
      throw new Error("no answer came: whether it was published is not known");
    }
  }

  #url(topic) {
    return `${this.#base}/${topic.split("/").map(encodeURIComponent).join("/")}`;
  }

  async #listen(topic, after, opened) {
    const stream = new AbortController();
    this.#streams.set(topic, stream);
    const alive = () => !this.#stopped && this.#streams.get(topic) === stream;
    let timer;
    const expect = (milliseconds) => {
      clearTimeout(timer);
      timer = setTimeout(() => stream.abort(), milliseconds);
    };
    // Comments come every 15 s.
    const heard = () => expect(SILENCE_MS + ANSWER_MS);
    try {
      expect(ANSWER_MS);
      const query = after === undefined ? "" : `?after=${after}`;
      const headers = { Accept: "text/event-stream" };
      const options = { headers, signal: stream.signal, cache: "no-store" };
      const response = await this.#fetch(this.#url(topic) + query, options);
      if (!response.ok) throw new Error(`${response.status}: ${(await response.text()).trim()}`);
      if (!alive()) return;
      heard();
      opened();
      const parser = new EventParser((data) => alive() && this.#told.message(JSON.parse(data)));
      for (const reader = response.body.getReader(); ;) {
        const { done, value } = await reader.read();
        if (done) break;
        heard();
        parser.feed(value);
      }
    } catch {
      // As an end: it is tried again.
    } finally {
      clearTimeout(timer);
      if (alive()) this.#told.lost();
    }
  }
}

// The data of events (HTML Living Standard §9.2.6), as far as this server writes them: lines end in LF.
class EventParser {
  #decoder = new TextDecoder();
  #rest = "";
  #data = [];
  #dispatch;

  constructor(dispatch) { this.#dispatch = dispatch; }

  feed(bytes) {
    const lines = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split("\n");
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) this.#data.push(line.slice(6));
      else if (line === "" && this.#data.length > 0) this.#dispatch(this.#data.splice(0).join("\n"));
    }
  }
}

export function connect(url, options = {}) {
  return new Ring(url, options);
}

globalThis.ringwire = { connect };
