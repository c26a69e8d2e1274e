// The feed of what happens: asked for again whenever it is cut off.

import { Refused, ask, events } from "./sse.js";

// One of several models: /?model=NAME shows it, without it the first.
const MODEL = new URLSearchParams(location.search).get("model");
const FEED = MODEL ? `/ui/feed?model=${encodeURIComponent(MODEL)}` : "/ui/feed";
const FIRST_PAUSE_MS = 500, LAST_PAUSE_MS = 8000, SILENCE_MS = 6000;

// Calls on.hello, on.lane, on.state and on.trouble with what they bring, and on.link with how it
// stands: "live", "lost" or "key".
export async function follow(on) {
  let pause = FIRST_PAUSE_MS;
  for (;;) {
    const stop = new AbortController();
    let heard = performance.now();
    const watch = setInterval(() => {
      if (performance.now() - heard > SILENCE_MS) stop.abort();
    }, 1000);
    try {
      const answer = await ask(FEED, { signal: stop.signal });
      for await (const { name, data } of events(answer)) {
        heard = performance.now();
        const told = JSON.parse(data);
        if (told.error) throw new Refused(429, told.error.message);
        if (name === "trouble") on.link("lost", told.problem);
        else {
          on.link("live", "live");
          pause = FIRST_PAUSE_MS;
        }
        on[name]?.(told);
      }
      on.link("lost", "cut off, trying again");
    } catch (error) {
      const wantsKey = error instanceof Refused && (error.status === 401 || error.status === 403);
      const why = error instanceof Refused ? error.message : "not reached";
      on.link(wantsKey ? "key" : "lost", wantsKey ? "an operator's key is needed" : `${why}, trying again`);
    } finally {
      clearInterval(watch);
      stop.abort();
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, LAST_PAUSE_MS);
  }
}
