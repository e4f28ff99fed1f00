/**
 * The servers a page gets records through, none of them trusted: every record is verified here, its target computed
 * here, and nothing older than what was seen before is taken.
 */
import { fromHex, toHex, type Bytes } from './bytes.ts'
import { Connection, type SocketConstructor } from './connection.ts'
import {
  ConflictError,
  ConnectionError,
  ForgedError,
  ProxyError,
  StaleError,
  TimeoutError,
  UnsupportedError,
} from './errors.ts'
import { memoryFloor, type Floor } from './floor.ts'
import {
  parseFailure,
  parseGetReply,
  parseInfo,
  parsePutReply,
  recordFields,
  type Failure,
  type Info,
  type Json,
  type PutReply,
  type Request,
} from './messages.ts'
import { RecordError, recordTarget, replaces, verifyRecord, type SignedRecord, type VerifiedRecord } from './record.ts'

export interface GatewayOptions {
  /** The platform's WebSocket, unless given. */
  readonly WebSocket?: SocketConstructor
  /** Where the highest sequence numbers seen are kept; in memory, unless given. */
  readonly floor?: Floor
  /** For one call in all, milliseconds. A lookup over dead DHT nodes takes 15 s. */
  readonly timeout?: number
}

export interface GetOptions {
  readonly salt?: Bytes
  /** Take nothing below this. */
  readonly minSeq?: number
  /** Accept a record that the server checked at most this many seconds ago; 0 asks the DHT again. */
  readonly maxAge?: number
  /** The record this page has: then only a newer one is sent, and this one is returned when there is none. */
  readonly known?: VerifiedRecord
  readonly signal?: AbortSignal
}

export interface PutOptions {
  /** Store only if the record that stands has this seq (BEP 44 compare-and-swap). */
  readonly cas?: number
  readonly signal?: AbortSignal
}

/** Long enough for a lookup that takes its time and one more server. */
const TIMEOUT = 30_000

/** The pause before all servers are tried again, milliseconds: doubled each round, up to the longest. */
const [FIRST_PAUSE, LONGEST_PAUSE] = [250, 5_000]

export class Gateway {
  readonly #connections: readonly Connection[]
  readonly #floor: Floor
  readonly #timeout: number
  /** Where to begin: the server that answered last. */
  #first = 0

  /** @param servers WebSocket addresses, the preferred one first */
  constructor(servers: readonly string[], options: GatewayOptions = {}) {
    if (servers.length === 0) throw new TypeError('a gateway needs at least one server')
    const WebSocket = options.WebSocket ?? (globalThis.WebSocket as SocketConstructor)
    this.#connections = [...new Set(servers)].map((url) => new Connection(url, WebSocket))
    this.#floor = options.floor ?? memoryFloor()
    this.#timeout = options.timeout ?? TIMEOUT
  }

  /**
   * The newest record of a key, or `null` when no server knows one.
   * @throws {StaleError} when all that is offered is older than what was seen before
   * @throws {ForgedError} when all that is offered does not verify
   * @throws {ConnectionError | TimeoutError | UnsupportedError | ProxyError} when no server gave an answer
   */
  async get(publicKey: string, options: GetOptions = {}): Promise<VerifiedRecord | null> {
    const { salt = new Uint8Array(), known, maxAge, minSeq = 0, signal } = options
    const target = recordTarget(publicKey, salt)
    const key = toHex(fromHex(publicKey, 32) as Bytes)
    if (known && known.target !== target) throw new TypeError("the known record is another key's")
    const floor = Math.max(minSeq, await this.#floor.read(target), known?.seq ?? 0)
    const request: Request = {
      action: 'dht_get',
      k: key,
      ...(salt.length > 0 && { salt: toHex(salt) }),
      ...(known && { seq: known.seq }),
      ...(maxAge !== undefined && { max_age: maxAge }),
    }
    return this.#ask(request, signal, async (reply) => {
      const answer = parseGetReply(reply)
      if (answer.kind === 'missing') return known ?? null
      if (answer.kind === 'unchanged') {
        if (known) return known
        throw new ForgedError('the server says "unchanged" to a page that has no record')
      }
      const record = await verifyReply(answer.record, target)
      if (record.seq < floor) throw new StaleError(record.seq, floor)
      await this.#floor.raise(target, record.seq)
      return known && !replaces(record, known) ? known : record
    })
  }

  /**
   * Stores a signed record.
   * @throws {ConflictError} when another version stands; it carries that version
   * @throws {ProxyError} when the server refuses
   * @throws {ConnectionError | TimeoutError | UnsupportedError} when no server could be asked
   */
  async put(record: VerifiedRecord, { cas, signal }: PutOptions = {}): Promise<PutReply> {
    const floor = await this.#floor.read(record.target)
    if (record.seq < floor) throw new StaleError(record.seq, floor)
    const request: Request = { action: 'dht_put', ...recordFields(record), ...(cas !== undefined && { cas }) }
    return this.#ask(
      request,
      signal,
      async (reply) => {
        const stored = parsePutReply(reply)
        if (stored.target !== record.target) throw new ForgedError('the server stored the record under another target')
        await this.#floor.raise(record.target, record.seq)
        return stored
      },
      record.target,
    )
  }

  /** What the server at hand says of itself. */
  info(options: { readonly signal?: AbortSignal } = {}): Promise<Info> {
    return this.#ask({ action: 'dht_info' }, options.signal, async (reply) => parseInfo(reply))
  }

  /** Closes the sockets; requests in flight fail. The next request opens them again. */
  close(): void {
    for (const connection of this.#connections) connection.close()
  }

  /**
   * Asks one server after the other until one gives an answer that `accept` takes. Only when none could be reached are
   * all tried again, after a pause: asking a server that answered once more would give the same answer.
   */
  async #ask<T>(
    request: Request,
    signal: AbortSignal | undefined,
    accept: (reply: Json) => Promise<T>,
    target?: string,
  ): Promise<T> {
    const limit = new Deadline(this.#timeout, signal)
    try {
      for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
        const outcome = await this.#askEach(request, limit, accept, target)
        if ('value' in outcome) return outcome.value
        if (!(outcome.problem instanceof ConnectionError)) throw outcome.problem
        await limit.pause(pause * (0.5 + Math.random() / 2), outcome.problem)
      }
    } finally {
      limit.clear()
    }
  }

  async #askEach<T>(
    request: Request,
    limit: Deadline,
    accept: (reply: Json) => Promise<T>,
    target: string | undefined,
  ): Promise<{ value: T } | { problem: Error }> {
    let problem: Error = new ConnectionError('no server')
    let nothing: { value: T } | undefined
    const count = this.#connections.length
    for (let i = 0; i < count; i++) {
      const index = (this.#first + i) % count
      // Servers left to ask get their share of the time that is left.
      const attempt = limit.share(count - i)
      try {
        const reply = await (this.#connections[index] as Connection).request(request, attempt.signal)
        const failure = parseFailure(reply)
        if (failure) throw await refusal(failure, target)
        const value = await accept(reply)
        // "I know of none" is worth a second opinion; anything else is the answer.
        if (value === null) {
          nothing = { value }
          continue
        }
        this.#first = index
        return { value }
      } catch (error) {
        limit.throwIfAborted()
        if (error instanceof ConflictError && error.current) {
          await this.#floor.raise(error.current.target, error.current.seq)
        }
        if (!(error instanceof Error) || isFinal(error)) throw error
        if (gravity(error) >= gravity(problem)) problem = error
      } finally {
        attempt.clear()
      }
    }
    return nothing && gravity(problem) < gravity(nothing) ? nothing : { problem }
  }
}

/** Refusals that name what is wrong with the request: every server would say the same. */
function isFinal(error: Error): boolean {
  return error instanceof ProxyError && error.code !== null
}

/** When servers fail in different ways, which of it the page is told: what says most about the record. */
function gravity(problem: Error | { value: unknown }): number {
  const order = [ConnectionError, TimeoutError, UnsupportedError, ProxyError]
  if (problem instanceof ForgedError) return 6
  if (problem instanceof StaleError) return 5
  if (!(problem instanceof Error)) return 4
  return order.findIndex((kind) => problem instanceof kind)
}

async function verifyReply(record: SignedRecord, target: string): Promise<VerifiedRecord> {
  try {
    if (recordTarget(record.key, record.salt) !== target) throw new ForgedError('the server sent another record')
    return await verifyRecord(record)
  } catch (error) {
    if (!(error instanceof RecordError)) throw error
    throw new ForgedError(`the server sent a record that does not verify: ${error.message}`)
  }
}

async function refusal({ reason, code, current }: Failure, target: string | undefined): Promise<ProxyError> {
  const standing = current && target !== undefined ? await verifyReply(current, target) : null
  return code === 301 || code === 302
    ? new ConflictError(reason, code, standing)
    : new ProxyError(reason, code, standing)
}

/** A time limit and the caller's own signal, as one signal. */
class Deadline {
  readonly #controller = new AbortController()
  readonly #ends: number
  readonly #timer: ReturnType<typeof setTimeout>

  constructor(
    milliseconds: number,
    private readonly outer?: AbortSignal,
  ) {
    outer?.throwIfAborted()
    this.#ends = Date.now() + milliseconds
    const late = () => this.#controller.abort(new TimeoutError('the server did not answer in time'))
    this.#timer = setTimeout(late, milliseconds)
    outer?.addEventListener('abort', this.#forward)
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** A limit of one `count`th of what is left of this one. */
  share(count: number): Deadline {
    return new Deadline(Math.max(0, this.#ends - Date.now()) / count, this.signal)
  }

  /** Waits. When the time is up, throws `problem`: why there was anything to wait for. */
  async pause(milliseconds: number, problem: Error): Promise<void> {
    const wait = new Deadline(milliseconds, this.signal)
    await new Promise((resolve) => wait.signal.addEventListener('abort', resolve, { once: true }))
    wait.clear()
    this.outer?.throwIfAborted()
    if (this.signal.aborted) throw problem
  }

  throwIfAborted(): void {
    this.signal.throwIfAborted()
  }

  clear(): void {
    clearTimeout(this.#timer)
    this.outer?.removeEventListener('abort', this.#forward)
  }

  #forward = () => this.#controller.abort(this.outer?.reason)
}
