/**
 * `get` and `put` as `bittorrent-dht` has them, for code that was written against it and moves into a page.
 *
 * ```ts
 * const dht = new DHT(gateway)
 * dht.put({ k, seq: 1, v: { ih }, sign }, (error, hash, nodes) => {})
 * dht.get(hash, { k }, (error, res) => {}) // res.v, res.k, res.sig, res.seq
 * ```
 *
 * One thing differs: a server is asked for a mutable item by its key, so `get` needs to know whose hash it is given. It
 * does for what was put here, for the `keys` named at the start, and with `opts.k`; any other hash is an immutable item's.
 * @module
 */
import {
  bencode,
  recordTarget,
  signable,
  toHex,
  verifyRecord,
  type Bytes,
  type Gateway,
  type VerifiedRecord,
} from './index.ts'

/** Bytes, or text that stands for its UTF-8. */
type Data = Uint8Array | string

/** Whether `sig` is `k`'s signature of `message`. */
export type Verify = (sig: Uint8Array, message: Uint8Array, k: Uint8Array) => boolean

export interface PutOptions {
  readonly v: bencode.Encodable
  readonly k?: Uint8Array | undefined
  readonly salt?: Data | undefined
  readonly seq?: number | undefined
  readonly cas?: number | undefined
  readonly sig?: Uint8Array | undefined
  readonly sign?: ((message: Uint8Array) => Uint8Array) | undefined
}

export interface GetOptions {
  /** The key whose item this is. */
  readonly k?: Uint8Array | undefined
  readonly salt?: Data | undefined
  /** Takes part in the check; the signature is verified anyway. */
  readonly verify?: Verify | undefined
  /** `false` has the server ask the DHT. */
  readonly cache?: boolean | undefined
}

/** What `get` finds: it can be put again as it is. */
export interface Found {
  /** As bencode has it: byte strings are bytes, never text. */
  readonly v: unknown
  readonly k?: Uint8Array
  readonly sig?: Uint8Array
  readonly seq?: number
  readonly salt?: Uint8Array
}

export interface DHTOptions {
  readonly verify?: Verify | undefined
  /** Keys whose items will be asked for by hash, with no salt or these. */
  readonly keys?: readonly { readonly k: Uint8Array; readonly salt?: Data }[] | undefined
}

/** Keys remembered; the one learnt longest ago is forgotten first. */
const MAX_KEYS = 1000

export class DHT {
  /** There is no table of nodes to fill here. */
  readonly ready = true
  readonly #gateway: Gateway
  readonly #verify: Verify | undefined
  readonly #keys = new Map<string, { readonly k: string; readonly salt: Bytes }>()

  constructor(gateway: Gateway, { verify, keys = [] }: DHTOptions = {}) {
    this.#gateway = gateway
    this.#verify = verify
    for (const { k, salt } of keys) this.#remember(toHex(k), bytes(salt ?? ''))
  }

  /** @throws {Error} at once when the options are wrong, in the words of `bittorrent-dht` */
  put(
    options: PutOptions | Data,
    done: (error: Error | null, hash?: Uint8Array, nodes?: number) => void = () => {},
  ): void {
    const item: PutOptions = isData(options) ? { v: options } : options
    checkPut(item)
    const v = bencode.encode(item.v)
    settle(
      item.k ? this.#putMutable(item, item.k, v) : this.#gateway.putValue(v),
      ({ target, stored }) => done(null, wrap(unhex(target)), stored),
      done,
    )
  }

  get(hash: Data, done: (error: Error | null, res?: Found | null) => void): void
  get(hash: Data, options: GetOptions | null, done: (error: Error | null, res?: Found | null) => void): void
  get(hash: Data, ...rest: unknown[]): void {
    const done = rest.pop() as (error: Error | null, res?: Found | null) => void
    const options = (rest[0] ?? {}) as GetOptions
    const target = (typeof hash === 'string' ? hash : toHex(hash)).toLowerCase()
    if (options.k) this.#remember(toHex(options.k), bytes(options.salt ?? ''))
    const name = this.#keys.get(target)
    settle(
      name ? this.#getMutable(name, options) : this.#gateway.getValue(target).then((v) => v && { v: plain(v) }),
      (found) => done(null, found),
      done,
    )
  }

  /** `'ready'` comes at once; there are no other events. */
  on(event: string, listener: () => void): this {
    if (event === 'ready') queueMicrotask(listener)
    return this
  }

  once(event: string, listener: () => void): this {
    return this.on(event, listener)
  }

  /** Leaves the gateway open: it may be others' too. */
  destroy(done?: () => void): void {
    if (done) queueMicrotask(done)
  }

  async #putMutable({ seq = 0, cas, salt = '', sig, sign }: PutOptions, k: Uint8Array, v: Bytes) {
    const claim = { key: toHex(k), salt: bytes(salt), seq, v }
    const signature = Uint8Array.from(
      sig ?? (sign as (message: Uint8Array) => Uint8Array)(wrap(signable(claim.salt, seq, v))),
    )
    const record = await verifyRecord({ ...claim, sig: signature })
    this.#remember(claim.key, claim.salt)
    return this.#gateway.put(record, cas === undefined ? {} : { cas })
  }

  async #getMutable({ k, salt }: { k: string; salt: Bytes }, { cache, verify = this.#verify }: GetOptions) {
    const record = await this.#gateway.get(k, { salt, ...(cache === false && { maxAge: 0 }) })
    return record && accepts(verify, record) ? found(record) : null
  }

  #remember(k: string, salt: Bytes): void {
    this.#keys.set(recordTarget(k, salt), { k, salt })
    if (this.#keys.size > MAX_KEYS) this.#keys.delete(this.#keys.keys().next().value as string)
  }
}

export default DHT

function checkPut({ v, k, salt, seq, cas, sig, sign }: PutOptions): void {
  const mutable = k !== undefined
  const length = isData(v) ? v.length : 0
  const faults: readonly (readonly [boolean, string])[] = [
    [v === undefined, 'opts.v not given'],
    [length >= 1000, 'v must be less than 1000 bytes in put()'],
    [mutable && cas !== undefined && typeof cas !== 'number', 'opts.cas must be an integer if provided'],
    [mutable && k.length !== 32, 'opts.k ed25519 public key must be 32 bytes'],
    [
      mutable && typeof sign !== 'function' && !isData(sig),
      'opts.sign function or options.sig signature is required for mutable put',
    ],
    [mutable && salt !== undefined && salt.length > 64, 'opts.salt is > 64 bytes long'],
    [mutable && seq === undefined, 'opts.seq not provided for a mutable update'],
    [mutable && typeof seq !== 'number', 'opts.seq not an integer'],
  ]
  const fault = faults.find(([wrong]) => wrong)
  if (fault) throw new Error(fault[1])
}

function accepts(verify: Verify | undefined, { key, salt, seq, v, sig }: VerifiedRecord): boolean {
  return !verify || verify(wrap(sig), wrap(signable(salt, seq, v)), wrap(unhex(key)))
}

function found({ key, salt, seq, v, sig }: VerifiedRecord): Found {
  return { k: wrap(unhex(key)), seq, v: plain(v), sig: wrap(sig), ...(salt.length > 0 && { salt: wrap(salt) }) }
}

/** A value as `bencode` decodes it. */
function plain(v: Bytes): unknown {
  const value = (node: bencode.Node): unknown => {
    if (node.kind === 'bytes') return wrap(Uint8Array.from(node.value))
    if (node.kind === 'list') return node.items.map(value)
    if (node.kind === 'int') return Number(node.value)
    return Object.fromEntries(node.entries.map(([key, inner]) => [new TextDecoder().decode(key), value(inner)]))
  }
  return value(bencode.decode(v))
}

/** The callback runs outside of the promise: what it throws is its caller's, not an error of the lookup. */
function settle<T>(promise: Promise<T>, done: (result: T) => void, failed: (error: Error) => void): void {
  promise.then(
    (result) => queueMicrotask(() => done(result)),
    (error: Error) => queueMicrotask(() => failed(error)),
  )
}

const isData = (value: unknown): value is Data => typeof value === 'string' || ArrayBuffer.isView(value)

const bytes = (data: Data): Bytes => (typeof data === 'string' ? new TextEncoder().encode(data) : Uint8Array.from(data))

const unhex = (hex: string): Bytes => Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))

/** Bytes as code for Node expects them, where there is a `Buffer`. */
function wrap(data: Uint8Array): Uint8Array {
  const { Buffer } = globalThis as { Buffer?: { from(data: Uint8Array): Uint8Array } }
  return Buffer ? Buffer.from(data) : data
}
