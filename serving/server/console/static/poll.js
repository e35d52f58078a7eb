// Asks the server again and again, while somebody looks.

import { ApiError } from "./api.js";

/** Seconds between two tries after failures, at most. */
const LONGEST = 30;
/** Seconds after which an answer does not come any more. */
const PATIENCE = 15;
/** Refusals that asking again does not change. */
const FINAL = new Set([400, 401, 403, 404]);

/** Calls `work(signal)` every `seconds` while the tab is shown. A failure waits longer each time, or as
 *  long as the server asks; one that trying does not mend stops it until `again`.
 *
 *  told: called with {state, error, seconds}; state is "live", "failing" (the next try is in so many
 *  seconds) or "stopped". */
export class Poller {
  constructor(work, seconds, told) {
    this._work = work;
    this._seconds = seconds;
    this._told = told;
    this._timer = null;
    this._running = null;
    this._failures = 0;
    this._stopped = false;
    this._seen = () => {
      clearTimeout(this._timer);
      if (!document.hidden && !this._stopped && !this._running) this._turn();
    };
    document.addEventListener("visibilitychange", this._seen);
    this._seen();
  }

  /** Tries now, also after a refusal. */
  again() {
    this._stopped = false;
    this._failures = 0;
    this._seen();
  }

  /** Ends it. */
  close() {
    this._stopped = true;
    clearTimeout(this._timer);
    document.removeEventListener("visibilitychange", this._seen);
    this._running?.abort();
  }

  async _turn() {
    const running = (this._running = new AbortController());
    const late = new ApiError(0, `it has not answered for ${PATIENCE} s`);
    const alarm = setTimeout(() => running.abort(late), 1000 * PATIENCE);
    let pause = this._seconds;
    try {
      await this._work(running.signal);
      this._failures = 0;
      this._told({ state: "live", error: null });
    } catch (error) {
      const { aborted, reason } = running.signal;
      if (aborted && reason !== late) return;
      pause = this._failed(aborted ? late : error);
    } finally {
      clearTimeout(alarm);
      this._running = null;
    }
    if (!this._stopped && !document.hidden) {
      this._timer = setTimeout(() => this._turn(), 1000 * pause);
    }
  }

  _failed(error) {
    this._failures += 1;
    this._stopped = FINAL.has(error.status);
    const backoff = Math.min(LONGEST, this._seconds * 2 ** (this._failures - 1));
    const seconds = Math.max(backoff, error.retryAfter ?? 0);
    this._told({ state: this._stopped ? "stopped" : "failing", error, seconds });
    return seconds;
  }
}
