/**
 * The `dht_*` messages of the tracker's WebSocket (`spec/dht-proxy.md`): frames ⇄ types, pure.
 *
 * Nothing here is believed: a record read from a frame is a {@link SignedRecord}, a claim; `answer.ts` checks it.
 */
import { fromHex, toHex, type Bytes } from './bytes.ts'
import { ForgedError } from './errors.ts'
import type { SignedRecord } from './record.ts'

/** A record as JSON: binary fields in lower-case hex. */
export interface RecordFields {
  readonly k: string
  readonly salt?: string
  readonly seq: number
  readonly v: string
  readonly sig: string
}

/** Whom a server asks: the DHT unless it keeps something young enough; nobody; the DHT in any case. */
export type Mode = 'cache_first' | 'cache_only' | 'network'

export interface GetRequest {
  readonly action: 'dht_get'
  readonly k: string
  readonly salt?: string
  readonly seq?: number
  readonly max_age?: number
  readonly min_seq?: number
  readonly mode?: Mode
}

/** Asks for a record and, by `dht_subscribe`, for every newer one: the reply is that of a get. */
export interface FollowRequest {
  readonly action: 'dht_get' | 'dht_subscribe'
  readonly k: string
  readonly salt?: string
  readonly seq?: number
}

/** Requests, without the `id` that the connection adds. */
export type Request =
  | { readonly action: 'dht_info' }
  | GetRequest
  | FollowRequest
  | { readonly action: 'dht_unsubscribe'; readonly k: string; readonly salt?: string }
  | { readonly action: 'dht_get'; readonly target: string }
  | (RecordFields & { readonly action: 'dht_put'; readonly cas?: number })
  | { readonly action: 'dht_put'; readonly v: string }

/** A reply, with records of type `R`: as claimed, or as verified. */
export type Reply<R = SignedRecord> =
  | { readonly kind: 'info'; readonly info: Info }
  | { readonly kind: 'record'; readonly record: R; readonly source: string; readonly conflict: boolean }
  | { readonly kind: 'unchanged'; readonly seq: number }
  | { readonly kind: 'value'; readonly v: Bytes }
  | { readonly kind: 'absent' }
  | { readonly kind: 'unsubscribed' }
  | { readonly kind: 'stored'; readonly stored: Stored }
  | { readonly kind: 'failure'; readonly reason: string; readonly code: number | null; readonly current: R | null }

/** What became of a put. */
export interface Stored {
  readonly target: string
  /** How many DHT nodes took the item; the server keeps a record and tries again when there were none. */
  readonly stored: number
  /** The author has signed another value with the same sequence number. */
  readonly conflict: boolean
}

/** What a server says of itself. */
export interface Info {
  readonly version: number
  readonly actions: readonly string[]
  readonly limits: { readonly v: number; readonly salt: number; readonly seq: number }
  readonly dht: { readonly nodes: number; readonly ready: boolean }
  /** Where on its host the web seeds are, by info hash; `null` when it offers none. */
  readonly webSeeds: string | null
}

/** A JSON object of which nothing is known yet. */
export type Json = Readonly<Record<string, unknown>>

/** The JSON object in a frame; `null` when it is something else. */
export function parseFrame(frame: unknown): Json | null {
  if (typeof frame !== 'string') return null
  try {
    return asObject(JSON.parse(frame))
  } catch {
    return null
  }
}

/**
 * What `reply` says to `request`.
 * @throws {ForgedError} when it is no reply of that kind
 */
export function parseReply(request: Request, reply: Json): Reply {
  const parsed =
    reply['action'] === request.action ? (parseFailure(reply) ?? PARSERS[request.action](request, reply)) : null
  if (!parsed) throw new ForgedError(`the server's reply to ${request.action} is malformed`, 'malformed')
  return parsed
}

/** A record's JSON fields. */
export function recordFields({ key, salt, seq, v, sig }: SignedRecord): RecordFields {
  return { k: key, ...(salt.length > 0 && { salt: toHex(salt) }), seq, v: toHex(v), sig: toHex(sig) }
}

/** The record that a server sent unasked, as claimed; `null` when it is none. */
export const parsePush = parseRecord

const PARSERS: Record<Request['action'], (request: Request, reply: Json) => Reply | null> = {
  dht_info: (_, reply) => parseInfo(reply),
  dht_get: parseGet,
  dht_subscribe: parseGet,
  dht_unsubscribe: () => ({ kind: 'unsubscribed' }),
  dht_put: (_, reply) => parseStored(reply),
}

function parseFailure(reply: Json): Reply | null {
  const reason = reply['failure reason']
  if (typeof reason !== 'string') return null
  const current = asObject(reply['current'])
  return { kind: 'failure', reason, code: asCount(reply['code']), current: current && parseRecord(current) }
}

function parseGet(request: Request, reply: Json): Reply | null {
  const { found, unchanged } = reply
  if (found === false) return { kind: 'absent' }
  if (found !== true) return null
  if ('target' in request) {
    const v = asBytes(reply['v'])
    return v && { kind: 'value', v }
  }
  if (unchanged === true) {
    const seq = asCount(reply['seq'])
    return 'seq' in request && seq !== null ? { kind: 'unchanged', seq } : null
  }
  const record = parseRecord(reply)
  return record && { kind: 'record', record, source: String(reply['source']), conflict: reply['conflict'] === true }
}

function parseStored(reply: Json): Reply | null {
  const target = asBytes(reply['target'], 20)
  const stored = asCount(reply['stored'])
  if (!target || stored === null) return null
  return { kind: 'stored', stored: { target: toHex(target), stored, conflict: reply['conflict'] === true } }
}

function parseInfo(reply: Json): Reply | null {
  const { version, actions } = reply
  const [limits, dht] = [asObject(reply['limits']), asObject(reply['dht'])]
  const counts = [version, limits?.['v'], limits?.['salt'], limits?.['seq'], dht?.['nodes']].map(asCount)
  if (!Array.isArray(actions) || counts.includes(null)) return null
  const [number, v, salt, seq, nodes] = counts as [number, number, number, number, number]
  const info = {
    version: number,
    actions: actions.filter((action) => typeof action === 'string'),
    limits: { v, salt, seq },
    dht: { nodes, ready: dht?.['ready'] === true },
    webSeeds: typeof reply['web_seeds'] === 'string' ? reply['web_seeds'] : null,
  }
  return { kind: 'info', info }
}

/** The claim in JSON fields; `null` when a field is missing or malformed. A field that is `null` is left out. */
function parseRecord(fields: Json): SignedRecord | null {
  const key = asBytes(fields['k'], 32)
  const salt = asBytes(fields['salt'] ?? '')
  const seq = asCount(fields['seq'])
  const v = asBytes(fields['v'])
  const sig = asBytes(fields['sig'], 64)
  return key && salt && v && sig && seq !== null ? { key: toHex(key), salt, seq, v, sig } : null
}

function asObject(value: unknown): Json | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : null
}

function asCount(value: unknown): number | null {
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : null
}

function asBytes(value: unknown, length?: number): Bytes | null {
  return typeof value === 'string' ? fromHex(value, length) : null
}
