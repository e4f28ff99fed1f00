/**
 * One record followed at every server at once: whoever hears of a version first tells, and what they tell is one stream.
 *
 * Nothing queues. A version that comes while the last one is still being looked at replaces the one that waits, so who
 * is slow finds only the newest.
 */
import type { Answer } from './answer.ts'
import type { Connection } from './connection.ts'
import { ProxyError, StaleError, TimeoutError, UnsupportedError } from './errors.ts'
import { parsePush, type FollowRequest } from './messages.ts'
import { replaces, type SignedRecord, type VerifiedRecord } from './record.ts'

/** How often a subscription is asked for again, milliseconds: it mends what was missed, and finds out a dead socket. */
const RENEW_EVERY = 60_000

/** How often a server that pushes nothing is asked, milliseconds. */
const POLL_EVERY = 30_000

/** The pause before a server that failed is tried again, milliseconds: doubled each time, up to the longest. */
const FIRST_PAUSE = 500
const LONGEST_PAUSE = 30_000

export interface Following {
  readonly target: string
  /** What to ask for, without `seq`. */
  readonly request: Omit<FollowRequest, 'action' | 'seq'>
  readonly connections: readonly Connection[]
  /** Asks one server, with a deadline; what it answers has been verified. */
  readonly ask: (connection: Connection, request: FollowRequest) => Promise<Answer>
  /** Verifies what a server sent unasked. */
  readonly check: (claim: SignedRecord) => Promise<VerifiedRecord>
  readonly known: VerifiedRecord | null
  readonly heard: () => void
  /** Ends everything. */
  readonly signal: AbortSignal
}

/** Ends with the signal, or by throwing when every server has refused for good. */
export async function* follow(following: Following): AsyncGenerator<VerifiedRecord, void, undefined> {
  const { connections, known, heard, signal: outer } = following
  const stop = new AbortController()
  const signal = AbortSignal.any([outer, stop.signal])
  let newest = known
  let fresh = false
  let refused: Error | null = null
  let wake = () => {}

  const tell = (record: VerifiedRecord) => {
    if (newest && !replaces(record, newest)) return
    newest = record
    fresh = true
    wake()
  }
  const servers = connections.map((connection) => new Server(connection, following, signal, tell, heard, () => newest))
  const ended = Promise.all(servers.map((server) => server.run())).then(([first]) => {
    refused = first ?? null
    wake()
  })
  try {
    while (!outer.aborted) {
      if (fresh && newest) {
        fresh = false
        yield newest
      } else if (refused) {
        throw refused
      } else {
        await new Promise<void>((resolve) => (wake = resolve))
      }
    }
  } finally {
    stop.abort()
    await ended
  }
}

class Server {
  /** Whether this server tells by itself; one that does not know how is asked again and again. */
  #pushes = true
  #subscribed = false
  #wake = () => {}

  constructor(
    readonly connection: Connection,
    readonly following: Following,
    readonly signal: AbortSignal,
    readonly tell: (record: VerifiedRecord) => void,
    readonly heard: () => void,
    readonly newest: () => VerifiedRecord | null,
  ) {}

  /** Until the signal ends it; with an error when there is nothing to be had from this server, now or later. */
  async run(): Promise<Error | null> {
    const { target, request } = this.following
    const leave = this.connection.follow(target, (push) => (push ? void this.#push(push) : this.#lost()))
    const wake = () => this.#wake()
    this.signal.addEventListener('abort', wake)
    try {
      for (let pause = FIRST_PAUSE; !this.signal.aborted;) {
        const problem = await this.#ask()
        if (isRefusal(problem)) return problem
        const undisturbed = !problem && (await this.#rest(this.#subscribed ? RENEW_EVERY : POLL_EVERY))
        if (!undisturbed) await this.#rest(pause * (0.5 + Math.random() / 2))
        pause = undisturbed ? FIRST_PAUSE : Math.min(pause * 2, LONGEST_PAUSE)
      }
      return null
    } finally {
      this.signal.removeEventListener('abort', wake)
      if (leave() && this.#subscribed) this.connection.notify({ action: 'dht_unsubscribe', ...request })
    }
  }

  /** Subscribes, or asks a server that takes no subscription; tells what it says, and what went wrong. */
  async #ask(): Promise<unknown> {
    try {
      if (this.#pushes) {
        try {
          await this.#request('dht_subscribe')
          this.#subscribed = true
          return null
        } catch (error) {
          // Not one that knows subscriptions, or it has no room for one more.
          if (error instanceof UnsupportedError) this.#pushes = false
          else if (!(error instanceof ProxyError) || error.code !== 202) throw error
        }
      }
      await this.#request('dht_get')
      return null
    } catch (error) {
      // A socket that has stopped carrying anything says nothing of it.
      if (this.#subscribed && error instanceof TimeoutError) this.connection.close()
      return error
    }
  }

  async #request(action: FollowRequest['action']): Promise<void> {
    const { ask, request } = this.following
    const seq = this.newest()?.seq
    try {
      const answer = await ask(this.connection, { action, ...request, ...(seq !== undefined && { seq }) })
      if (answer.kind === 'record') this.tell(answer.record)
      this.heard()
    } catch (error) {
      // A server that is behind the others may catch up.
      if (!(error instanceof StaleError)) throw error
    }
  }

  async #push(push: Parameters<typeof parsePush>[0]): Promise<void> {
    const claim = parsePush(push)
    const newest = this.newest()
    if (!claim || (newest && !replaces(claim, newest))) return
    try {
      this.tell(await this.following.check(claim))
      this.heard()
    } catch {
      // Forged, or older than what was seen before: as if it had not come.
    }
  }

  #lost(): void {
    this.#subscribed = false
    this.#pushes = true
    this.#wake()
  }

  /** Whether the time passed with nothing in between. */
  async #rest(milliseconds: number): Promise<boolean> {
    if (this.signal.aborted) return false
    let timer: ReturnType<typeof setTimeout> | undefined
    const passed = await new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(true), milliseconds)
      this.#wake = () => resolve(false)
    })
    clearTimeout(timer)
    return passed
  }
}

/** What the same server would say again: it knows no records, or the request is wrong. */
function isRefusal(error: unknown): error is Error {
  return error instanceof UnsupportedError || (error instanceof ProxyError && error.code !== 202)
}
