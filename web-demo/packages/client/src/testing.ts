/** Helpers of the tests: the shared vectors, and a WebSocket whose other end is a function. */
import { readFileSync } from 'node:fs'

import { vi } from 'vitest'

import { fromHex, type Bytes } from './bytes.ts'
import type { SocketLike } from './connection.ts'
import { importSeed, type SigningKey } from './ed25519.ts'
import { recordFields, type RecordFields } from './messages.ts'
import { signRecord, type SignedRecord, type VerifiedRecord } from './record.ts'

/** One case of `spec/vectors`; see its README. */
export interface Case<Input, Expected> {
  readonly comment: string
  readonly input: Input
  readonly result: 'valid' | 'invalid'
  readonly expected: Expected
  readonly code: number
  readonly error: string
}

export function vectors<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(`../../../../spec/vectors/${name}.json`, import.meta.url), 'utf8')) as T
}

export const hex = (text: string): Bytes => fromHex(text) as Bytes

export function fromFields({ k, salt, seq, v, sig }: RecordFields): SignedRecord {
  return { key: k, salt: hex(salt ?? ''), seq, v: hex(v), sig: hex(sig) }
}

/** What the other end does with one request: a reply, silence (`undefined`), or more, by hand. */
export type Server = (request: Record<string, unknown>, socket: FakeSocket) => object | string | undefined | void

/** How a server that conforms introduces itself. */
export const INFO = {
  version: 1,
  actions: ['dht_info', 'dht_get', 'dht_put'],
  limits: { v: 1000, salt: 64, seq: Number.MAX_SAFE_INTEGER },
  dht: { nodes: 3, ready: true },
}

/** A server that introduces itself and answers everything else with `reply`. */
export const serving =
  (reply: (request: Record<string, unknown>) => object | undefined): Server =>
  (request) =>
    request['action'] === 'dht_info' ? INFO : reply(request)

/** What a server says that has this record. */
export const found = (item: VerifiedRecord) => ({
  found: true,
  target: item.target,
  ...recordFields(item),
  source: 'dht',
})

/** A WebSocket that reaches the servers it is given, by URL; any other URL cannot be reached. */
export function fakeNetwork(servers: Readonly<Record<string, Server>>) {
  const sockets: FakeSocket[] = []
  const WebSocket = class extends FakeSocket {
    constructor(url: string) {
      super(url, servers[url])
      sockets.push(this)
    }
  }
  return { WebSocket, sockets }
}

export class FakeSocket implements SocketLike {
  readyState = 0
  /** Every request that arrived, introductions aside. */
  readonly received: Record<string, unknown>[] = []
  readonly #listeners = new Map<string, ((event: { data: unknown }) => void)[]>()

  constructor(
    readonly url: string,
    private readonly server: Server | undefined,
  ) {
    queueMicrotask(() => {
      if (this.readyState !== 0) return
      this.readyState = server ? 1 : 3
      this.emit(server ? 'open' : 'error')
    })
  }

  addEventListener(type: string, listener: (event: { data: unknown }) => void): void {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), listener])
  }

  send(text: string): void {
    const request = JSON.parse(text) as Record<string, unknown>
    if (request['action'] !== 'dht_info') this.received.push(request)
    queueMicrotask(() => {
      const reply = this.server?.(request, this)
      if (reply)
        this.deliver(typeof reply === 'string' ? reply : { action: request['action'], id: request['id'], ...reply })
    })
  }

  close(): void {
    if (this.readyState === 3) return
    this.readyState = 3
    this.emit('close')
  }

  /** A frame from the other end. */
  deliver(frame: object | string): void {
    this.emit('message', typeof frame === 'string' ? frame : JSON.stringify(frame))
  }

  private emit(type: string, data?: unknown): void {
    for (const listener of this.#listeners.get(type) ?? []) listener({ data })
  }
}

/** What `promise` comes to while time is made to pass: never ahead of the platform's cryptography, which keeps its own. */
export async function outcome<T>(promise: Promise<T>, milliseconds = 60_000): Promise<T | Error> {
  let settled = false
  const result = promise.catch((error: Error) => error).finally(() => (settled = true))
  for (let passed = 0; !settled && passed < milliseconds;) {
    await new Promise(setImmediate)
    if (cryptoBusy > 0) continue
    await vi.advanceTimersByTimeAsync(10)
    passed += 10
  }
  return result
}

let cryptoBusy = 0
function watchCrypto(): void {
  for (const method of ['importKey', 'verify', 'sign', 'generateKey'] as const) {
    const real = crypto.subtle[method].bind(crypto.subtle) as (...args: unknown[]) => Promise<never>
    vi.spyOn(crypto.subtle, method).mockImplementation(async (...args: unknown[]) => {
      cryptoBusy++
      return real(...args).finally(() => cryptoBusy--)
    })
  }
}

/** Time that stands still but for {@link outcome}, which moves it when nothing is left to compute. */
export function fakeTime(): void {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'Date'] })
  watchCrypto()
}

/** An author and the first versions of one record, which all point to one torrent. */
export async function author(
  infoHash: string,
  versions: number,
): Promise<{ key: SigningKey; records: VerifiedRecord[] }> {
  const key = await importSeed(new Uint8Array(32).fill(1))
  const seqs = [...Array(versions).keys()]
  return { key, records: await Promise.all(seqs.map((seq) => signRecord(key, { infoHash, seq }))) }
}
