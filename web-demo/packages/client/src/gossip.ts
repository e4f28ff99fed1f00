/**
 * Records passed on by the readers themselves (`spec/record-exchange.md`), over a WebTorrent instance that is handed in.
 *
 * ```ts
 * const topic = joinTopic(webtorrent, publicKey, { trackers: ['wss://host/announce'], known: record })
 * topic.addEventListener('record', ({ detail: record }) => show(record))
 * for await (const record of gateway.subscribe(publicKey)) topic.tell(record) // a server and the swarm, each for the other
 * ```
 *
 * The swarm is the one whose info hash is the record's target. Trackers introduce its peers to each other; after that
 * they need nobody. Every record is verified before it is believed or sent on.
 * @module
 */
import { decodeMessage, encodeHave, encodeRecord, NAME, versionOf, type Version } from './exchange.ts'
import {
  memoryFloor,
  RecordError,
  recordTarget,
  replaces,
  verifyRecord,
  type Bytes,
  type Floor,
  type SignedRecord,
  type VerifiedRecord,
} from './index.ts'

/** What is used of a WebTorrent client. */
export interface SwarmClient {
  add(infoHash: string, options: { readonly announce: readonly string[] }): Swarm
}

/** What is used of its torrents. */
export interface Swarm {
  on(event: 'wire', listener: (wire: Wire) => void): unknown
  destroy(): void
}

/** What is used of a connection: `bittorrent-protocol`'s. */
export interface Wire {
  use(extension: new (wire: Wire) => object): void
  extended(name: string, payload: Uint8Array): void
  on(event: 'close', listener: () => void): unknown
  destroy(): void
}

export interface TopicOptions {
  readonly salt?: Bytes | undefined
  /** Who introduces peers to each other. */
  readonly trackers: readonly string[]
  /** The version this page has, if any. */
  readonly known?: VerifiedRecord | null | undefined
  /** Where the highest sequence numbers seen are kept; in memory, unless given. */
  readonly floor?: Floor | undefined
}

/** Joins the swarm of a key's record. */
export function joinTopic(client: SwarmClient, publicKey: string, options: TopicOptions): Topic {
  const topic = new Topic(publicKey, options)
  const swarm = client.add(topic.target, { announce: options.trackers })
  swarm.on('wire', (wire) => topic.meet(wire))
  topic.addEventListener('leave', () => swarm.destroy())
  return topic
}

/** One record among the peers that follow it. `record` events bring each newer version. */
export class Topic extends EventTarget {
  /** The info hash of the swarm, lower-case hex. */
  readonly target: string
  readonly #key: string
  readonly #salt: Bytes
  readonly #floor: Floor
  #newest: VerifiedRecord | null
  readonly #links = new Set<Link>()

  constructor(
    publicKey: string,
    { salt = new Uint8Array(), known, floor = memoryFloor() }: Omit<TopicOptions, 'trackers'>,
  ) {
    super()
    this.target = recordTarget(publicKey, salt)
    if (known && known.target !== this.target) throw new TypeError('the record that is known is another one')
    this.#key = publicKey.toLowerCase()
    this.#salt = salt
    this.#floor = floor
    this.#newest = known ?? null
  }

  /** The newest version known here. */
  get newest(): VerifiedRecord | null {
    return this.#newest
  }

  /** How many peers exchange records with this page. */
  get peers(): number {
    return [...this.#links].filter((link) => link.ready).length
  }

  /** Passes on a version learnt elsewhere: published here, or from a server. It raises no event. */
  tell(record: VerifiedRecord): void {
    if (record.target !== this.target) throw new TypeError('the record is of another topic')
    if (!this.#newest || replaces(record, this.#newest)) this.#take(record)
  }

  /** Exchanges records on a connection of the topic's swarm; for swarms that were joined by other means. */
  meet(wire: Wire): void {
    const link = new Link(wire)
    const onReady = () => this.#greet(link)
    const onMessage = (payload: Uint8Array) => void this.#hear(link, payload)
    class Exchange {
      onExtendedHandshake = onReady
      onMessage = onMessage
    }
    Object.defineProperty(Exchange.prototype, 'name', { value: NAME })
    wire.use(Exchange)
    this.#links.add(link)
    wire.on('close', () => {
      link.close()
      this.#links.delete(link)
    })
  }

  /** Leaves the swarm. */
  leave(): void {
    for (const link of this.#links) link.close()
    this.#links.clear()
    this.dispatchEvent(new Event('leave'))
  }

  /** "Neither side sends a message of this extension before it has both offered it and been offered it." */
  #greet(link: Link): void {
    if (link.ready) return
    link.ready = true
    const version = this.#newest && versionOf(this.#newest)
    link.send(encodeHave([{ key: this.#key, salt: this.#salt, version }]))
  }

  async #hear(link: Link, payload: Uint8Array): Promise<void> {
    const message = decodeMessage(payload)
    if (message?.kind === 'have' && link.haves.take()) {
      for (const { key, salt, version } of message.records) {
        if (recordTarget(key, salt) === this.target) link.has = version
      }
      link.offer(this.#newest)
    }
    if (message?.kind === 'record' && recordTarget(message.record.key, message.record.salt) === this.target) {
      await this.#weigh(link, message.record)
    }
  }

  /** "A record that arrives is compared with the newest version known here *before* its signature is checked." */
  async #weigh(link: Link, claim: SignedRecord): Promise<void> {
    const newest = this.#newest
    const conflict = newest?.seq === claim.seq && versionOf(newest).hash !== versionOf(claim).hash
    if (newest && !conflict && !replaces(claim, newest)) return
    if (!link.checks.take()) return
    let record: VerifiedRecord
    try {
      record = await verifyRecord(claim)
    } catch (error) {
      // "No honest peer sends on what it has not verified."
      if (error instanceof RecordError && error.code === 206) link.wire.destroy()
      return
    }
    if (record.seq < (await this.#floor.read(this.target))) return
    link.has = versionOf(record)
    if (conflict) this.dispatchEvent(new CustomEvent('conflict', { detail: record }))
    // Another may have come while this one was checked.
    if (this.#newest && !replaces(record, this.#newest)) return link.offer(this.#newest)
    this.#take(record)
    this.dispatchEvent(new CustomEvent('record', { detail: record }))
  }

  #take(record: VerifiedRecord): void {
    this.#newest = record
    void this.#floor.raise(this.target, record.seq)
    for (const link of this.#links) link.offer(record)
  }
}

/** What is known of one connection, and what it may still cost: `spec/record-exchange.md`, *Limits*. */
class Link {
  ready = false
  /** The version the other side has; `undefined` until it says that it wants any. */
  has: Version | null | undefined = undefined
  readonly haves = new Allowance(8, 10_000)
  readonly checks = new Allowance(20, 1_000)
  readonly #records = new Allowance(4, 5_000)
  #waiting: VerifiedRecord | null = null
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(readonly wire: Wire) {}

  /** Sends the newest version, once, to who wants it and has not got it; at once, or when it is its turn. */
  offer(newest: VerifiedRecord | null): void {
    const { has } = this
    if (!newest || !this.ready || has === undefined) return
    const version = versionOf(newest)
    if (has && (has.seq > version.seq || (has.seq === version.seq && has.hash === version.hash))) return
    if (this.#records.take()) {
      this.has = version
      this.send(encodeRecord(newest))
      return
    }
    this.#waiting = newest
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.offer(this.#waiting)
    }, this.#records.wait())
  }

  send(payload: Uint8Array): void {
    this.wire.extended(NAME, payload)
  }

  close(): void {
    this.ready = false
    clearTimeout(this.#timer)
  }
}

/** So many at once, then one in each `interval` milliseconds. */
class Allowance {
  #left: number
  #since = Date.now()

  constructor(
    readonly burst: number,
    readonly interval: number,
  ) {
    this.#left = burst
  }

  take(): boolean {
    const earned = Math.floor((Date.now() - this.#since) / this.interval)
    this.#since = this.#left + earned >= this.burst ? Date.now() : this.#since + earned * this.interval
    this.#left = Math.min(this.#left + earned, this.burst)
    if (this.#left === 0) return false
    this.#left--
    return true
  }

  /** Milliseconds until the next is earned. */
  wait(): number {
    return Math.max(0, this.#since + this.interval - Date.now())
  }
}

/** The events of a topic, for `addEventListener`. */
export interface Topic {
  addEventListener(type: 'record' | 'conflict', listener: (event: CustomEvent<VerifiedRecord>) => void): void
  addEventListener(type: 'leave', listener: () => void): void
}
