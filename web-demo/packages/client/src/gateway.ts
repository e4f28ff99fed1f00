/**
 * The servers a page gets records through, none of them trusted: every record is verified here, its target computed
 * here, and nothing older than what was seen before is taken.
 */
import { checkRecord, checkReply, requestTarget, type Answer } from './answer.ts'
import { toHex, type Bytes } from './bytes.ts'
import { Connection, type SocketConstructor } from './connection.ts'
import { Deadline } from './deadline.ts'
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
import { recordFields, type GetRequest, type Info, type Mode, type Request, type Stored } from './messages.ts'
import { checkValue, recordTarget, replaces, type VerifiedRecord } from './record.ts'
import { follow } from './subscription.ts'
import { webSeedAt } from './web-seeds.ts'

export interface GatewayOptions {
  /** The platform's WebSocket, unless given. */
  readonly WebSocket?: SocketConstructor | undefined
  /** Where the highest sequence numbers seen are kept; in memory, unless given. */
  readonly floor?: Floor | undefined
  /** For one call in all, milliseconds. A lookup over dead DHT nodes takes 15 s. */
  readonly timeout?: number | undefined
}

export interface GetOptions {
  readonly salt?: Bytes | undefined
  /** Take nothing below this: a server whose own is older asks the DHT. */
  readonly minSeq?: number | undefined
  /** Whom the server asks; the DHT unless it keeps something young enough, when left out. */
  readonly mode?: Mode | undefined
  /** Take what the server checked with the DHT at most this many seconds ago; 0 has it ask again. */
  readonly maxAge?: number | undefined
  /** The record this page has, if any: then only a newer one is sent, and this one is returned when there is none. */
  readonly known?: VerifiedRecord | null | undefined
  readonly signal?: AbortSignal | undefined
}

export interface SubscribeOptions {
  readonly salt?: Bytes | undefined
  /** Take nothing below this. */
  readonly minSeq?: number | undefined
  /** The record this page has, if any: only newer ones are told. */
  readonly known?: VerifiedRecord | null | undefined
  /** Called each time a server has said what is newest, be it new or not. */
  readonly heard?: (() => void) | undefined
  readonly signal?: AbortSignal | undefined
}

export interface PutOptions {
  /** Store only if the record that stands has this seq (BEP 44, compare and set). */
  readonly cas?: number | undefined
  readonly signal?: AbortSignal | undefined
}

/** What only makes reading faster is not waited for longer, milliseconds; servers answer `dht_info` at once. */
const HASTE = 2_000

/** Long enough for a lookup that takes its time and one more server. */
const TIMEOUT = 30_000

/** The pause before all servers are tried again, milliseconds: doubled each round, up to the longest. */
const FIRST_PAUSE = 250
const LONGEST_PAUSE = 5_000

/** How long servers that cannot be reached are tried again, milliseconds: a restart, not an outage. */
const RETRY_FOR = 10_000

export class Gateway {
  readonly #connections: readonly Connection[]
  readonly #floor: Floor
  readonly #timeout: number
  /** Where to begin: the server that answered last. */
  #first = 0
  /** Ends the subscriptions. */
  #open = new AbortController()

  /** @param servers WebSocket addresses, the preferred one first */
  constructor(servers: readonly string[], options: GatewayOptions = {}) {
    if (servers.length === 0) throw new TypeError('a gateway needs at least one server')
    const WebSocket = options.WebSocket ?? (globalThis.WebSocket as SocketConstructor | undefined)
    if (!WebSocket) throw new TypeError('there is no WebSocket here: give one, new Gateway(servers, { WebSocket })')
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
    const { salt, known, maxAge, minSeq, mode, signal } = options
    const target = recordTarget(publicKey, salt)
    if (known && known.target !== target) throw new TypeError('the record that is known is another one')
    const request: GetRequest = {
      action: 'dht_get',
      k: publicKey.toLowerCase(),
      ...(salt?.length && { salt: toHex(salt) }),
      ...(known && { seq: known.seq }),
      ...(maxAge !== undefined && { max_age: maxAge }),
      ...(minSeq !== undefined && { min_seq: minSeq }),
      ...(mode && { mode }),
    }
    const answer = await this.#ask(request, signal, minSeq)
    if (answer.kind !== 'record') return known ?? null
    return known && !replaces(answer.record, known) ? known : answer.record
  }

  /**
   * The newest record of a key, and every newer one as it is published, until the loop is left or `signal` aborts, which
   * throws its reason. Who is slow finds only the newest. Every server is followed; lost connections are made again, and
   * servers that push nothing are asked twice a minute.
   * @throws {UnsupportedError | ProxyError} when every server has refused
   */
  async *subscribe(publicKey: string, options: SubscribeOptions = {}): AsyncGenerator<VerifiedRecord, void, undefined> {
    const { salt, known = null, minSeq = 0, heard = () => {}, signal } = options
    const target = recordTarget(publicKey, salt)
    signal?.throwIfAborted()
    const stop = AbortSignal.any([this.#open.signal, ...(signal ? [signal] : [])])
    yield* follow({
      target,
      request: { k: publicKey.toLowerCase(), ...(salt?.length && { salt: toHex(salt) }) },
      connections: this.#connections,
      ask: async (connection, request) => {
        const limit = new Deadline(this.#timeout, stop)
        return this.#askOne(connection, request, limit, minSeq).finally(() => limit.clear())
      },
      check: async (claim) => {
        const record = await checkRecord(claim, target, Math.max(minSeq, await this.#floor.read(target)))
        await this.#floor.raise(target, record.seq)
        return record
      },
      known,
      heard,
      signal: stop,
    })
    signal?.throwIfAborted()
  }

  /**
   * Stores a signed record.
   * @throws {ConflictError} when another version stands; it carries that version
   * @throws {ProxyError} when the server refuses
   * @throws {ConnectionError | TimeoutError | UnsupportedError} when no server could be asked
   */
  async put(record: VerifiedRecord, { cas, signal }: PutOptions = {}): Promise<Stored> {
    const floor = await this.#floor.read(record.target)
    if (record.seq < floor) throw new StaleError(record.seq, floor)
    const request: Request = { action: 'dht_put', ...recordFields(record), ...(cas !== undefined && { cas }) }
    const answer = await this.#ask(request, signal)
    await this.#floor.raise(record.target, record.seq)
    return (answer as Answer & { kind: 'stored' }).stored
  }

  /** The immutable item of a target: its bencoded value, or `null` when no server knows it. Throws as {@link get}. */
  async getValue(target: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Bytes | null> {
    const answer = await this.#ask({ action: 'dht_get', target: target.toLowerCase() }, options.signal)
    return answer.kind === 'value' ? answer.v : null
  }

  /** Stores a bencoded value under its own SHA-1. Throws as {@link put}, and `RecordError` for what no peer takes. */
  async putValue(v: Bytes, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Stored> {
    checkValue(v)
    const answer = await this.#ask({ action: 'dht_put', v: toHex(v) }, options.signal)
    return (answer as Answer & { kind: 'stored' }).stored
  }

  /** What the server at hand says of itself. */
  async info(options: { readonly signal?: AbortSignal | undefined } = {}): Promise<Info> {
    const answer = await this.#ask({ action: 'dht_info' }, options.signal)
    return (answer as Answer & { kind: 'info' }).info
  }

  /**
   * Where the server at hand is a web seed (BEP 19) of a torrent, if it has all of it; `null` when it offers none. Never
   * throws.
   */
  async webSeed(infoHash: string, options: { readonly signal?: AbortSignal | undefined } = {}): Promise<string | null> {
    const connection = this.#connections[this.#first] as Connection
    try {
      const limit = new Deadline(HASTE, options.signal)
      const answer = await this.#askOne(connection, { action: 'dht_info' }, limit, 0).finally(() => limit.clear())
      const path = answer.kind === 'info' ? answer.info.webSeeds : null
      return path === null ? null : webSeedAt(connection.url, path, infoHash)
    } catch {
      return null
    }
  }

  /** Closes the sockets; requests in flight fail, subscriptions end. The next request opens them again. */
  close(): void {
    this.#open.abort()
    this.#open = new AbortController()
    for (const connection of this.#connections) connection.close()
  }

  /**
   * Asks one server after the other until one answers. Only when none could be reached are all tried again for a while:
   * a server that did answer would say the same again.
   */
  async #ask(request: Request, signal?: AbortSignal, minSeq = 0): Promise<Answer> {
    const limit = new Deadline(this.#timeout, signal)
    const giveUp = Date.now() + RETRY_FOR
    try {
      for (let pause = FIRST_PAUSE; ; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
        const outcome = await this.#askEach(request, limit, minSeq)
        if (!(outcome instanceof Error)) return outcome
        if (!(outcome instanceof ConnectionError) || Date.now() >= giveUp) throw outcome
        await limit.pause(pause * (0.5 + Math.random() / 2), outcome)
      }
    } finally {
      limit.clear()
    }
  }

  /** One round: the first good answer; else "absent" if anybody says so; else what most needs telling. */
  async #askEach(request: Request, limit: Deadline, minSeq: number): Promise<Answer | Error> {
    const { length } = this.#connections
    let best: Answer | Error | null = null
    for (let i = 0; i < length; i++) {
      const index = (this.#first + i) % length
      // The servers left to ask share the time that is left.
      const attempt = limit.share(length - i)
      try {
        const answer = await this.#askOne(this.#connections[index] as Connection, request, attempt, minSeq)
        if (answer.kind !== 'absent') {
          this.#first = index
          return answer
        }
        // "I know of none" is worth a second opinion.
        best = weightier(best, answer)
      } catch (error) {
        limit.signal.throwIfAborted()
        if (!(error instanceof Error) || isFinal(error)) throw error
        best = weightier(best, error)
      } finally {
        attempt.clear()
      }
    }
    return best as Answer | Error
  }

  async #askOne(connection: Connection, request: Request, limit: Deadline, minSeq: number): Promise<Answer> {
    const reply = await connection.request(request, limit.signal)
    const target = requestTarget(request)
    const floor = target === null ? -1 : Math.max(minSeq, await this.#floor.read(target))
    const answer = await checkReply(request, reply, floor)
    const record = answer.kind === 'record' ? answer.record : answer.kind === 'failure' ? answer.current : null
    if (record) await this.#floor.raise(record.target, record.seq)
    if (answer.kind === 'failure') throw refusal(answer)
    return answer
  }
}

function refusal({ reason, code, current }: Answer & { kind: 'failure' }): Error {
  if (code === 301 || code === 302) return new ConflictError(reason, code, current)
  return code === 204 ? new UnsupportedError(reason) : new ProxyError(reason, code, current)
}

/** Refusals that name what is wrong with the request: every server would say the same. 202 is "not now, not here". */
function isFinal(error: Error): boolean {
  return error instanceof ProxyError && error.code !== null && error.code !== 202
}

/** When servers fail in different ways, the one that says most about the record is told. */
function weightier(a: Answer | Error | null, b: Answer | Error): Answer | Error {
  const order = [ConnectionError, TimeoutError, UnsupportedError, ProxyError, null, StaleError, ForgedError]
  const weight = (outcome: Answer | Error) =>
    order.findIndex((kind) => (kind === null ? !(outcome instanceof Error) : outcome instanceof kind))
  return a !== null && weight(a) > weight(b) ? a : b
}
