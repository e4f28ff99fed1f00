/**
 * The `dht_*` messages of the tracker's WebSocket (`spec/dht-proxy.md`): frames ⇄ types, pure.
 *
 * Nothing here is believed: a record read from a frame is a {@link SignedRecord}, a claim.
 */
import { fromHex, toHex } from './bytes.ts'
import { ForgedError } from './errors.ts'
import type { SignedRecord } from './record.ts'

/** Requests, without the `id` that the connection adds. */
export type Request =
  | { readonly action: 'dht_info' }
  | {
      readonly action: 'dht_get'
      readonly k: string
      readonly salt?: string
      readonly seq?: number
      readonly max_age?: number
    }
  | (RecordFields & { readonly action: 'dht_put'; readonly cas?: number })

/** A record as JSON: binary fields in lower-case hex. */
export interface RecordFields {
  readonly k: string
  readonly salt?: string
  readonly seq: number
  readonly v: string
  readonly sig: string
}

/** A JSON object of which nothing is known yet. */
export type Json = Readonly<Record<string, unknown>>

/** What a `dht_get` came to. */
export type GetReply =
  | { readonly kind: 'found'; readonly record: SignedRecord; readonly source: string | null }
  | { readonly kind: 'unchanged' }
  | { readonly kind: 'missing' }

/** What a `dht_put` came to. */
export interface PutReply {
  readonly target: string
  readonly seq: number
  /** How many DHT nodes took the record. */
  readonly stored: number
}

/** What a server says of itself. */
export interface Info {
  readonly version: number
  readonly actions: readonly string[]
  readonly limits: { readonly v: number; readonly salt: number; readonly seq: number }
  readonly dht: { readonly nodes: number; readonly ready: boolean }
}

/** A refusal. `current` is the record that stands, if the server named one. */
export interface Failure {
  readonly reason: string
  readonly code: number | null
  readonly current: SignedRecord | null
}

/** The JSON object in a frame; `null` when it is something else. */
export function parseFrame(frame: unknown): Json | null {
  if (typeof frame !== 'string') return null
  try {
    return asObject(JSON.parse(frame))
  } catch {
    return null
  }
}

/** The refusal in a reply, if it is one. */
export function parseFailure(reply: Json): Failure | null {
  const reason = reply['failure reason']
  if (typeof reason !== 'string') return null
  const current = asObject(reply['current'])
  return { reason, code: asCount(reply['code']), current: current && parseRecord(current) }
}

/** @throws {ForgedError} when the reply is none */
export function parseGetReply(reply: Json): GetReply {
  if (reply['found'] === false) return { kind: 'missing' }
  if (reply['found'] === true && reply['unchanged'] === true) return { kind: 'unchanged' }
  const record = reply['found'] === true ? parseRecord(reply) : null
  if (!record) throw malformed('dht_get')
  const source = reply['source']
  return { kind: 'found', record, source: typeof source === 'string' ? source : null }
}

/** @throws {ForgedError} when the reply is none */
export function parsePutReply(reply: Json): PutReply {
  const target = asHex(reply['target'], 20)
  const [seq, stored] = [asCount(reply['seq']), asCount(reply['stored'])]
  if (target === null || seq === null || stored === null) throw malformed('dht_put')
  return { target, seq, stored }
}

/** @throws {ForgedError} when the reply is none */
export function parseInfo(reply: Json): Info {
  const [limits, dht, actions] = [asObject(reply['limits']), asObject(reply['dht']), reply['actions']]
  const version = asCount(reply['version'])
  const counts = [limits?.['v'], limits?.['salt'], limits?.['seq'], dht?.['nodes']].map(asCount)
  const [v, salt, seq, nodes] = counts
  if (version === null || !Array.isArray(actions) || v == null || salt == null || seq == null || nodes == null) {
    throw malformed('dht_info')
  }
  return {
    version,
    actions: actions.filter((action) => typeof action === 'string'),
    limits: { v, salt, seq },
    dht: { nodes, ready: dht?.['ready'] === true },
  }
}

/** A record's JSON fields. */
export function recordFields(record: SignedRecord): RecordFields {
  return {
    k: record.key,
    ...(record.salt.length > 0 && { salt: toHex(record.salt) }),
    seq: record.seq,
    v: toHex(record.v),
    sig: toHex(record.sig),
  }
}

/** The claim in JSON fields; `null` when a field is missing or malformed. */
export function parseRecord(fields: Json): SignedRecord | null {
  const { k, salt = '', seq, v, sig } = fields
  if (typeof salt !== 'string' || typeof v !== 'string' || typeof sig !== 'string') return null
  const bytes = { salt: fromHex(salt), v: fromHex(v), sig: fromHex(sig, 64) }
  const [key, count] = [asHex(k, 32), asCount(seq)]
  if (key === null || count === null || !bytes.salt || !bytes.v || !bytes.sig) return null
  return { key, salt: bytes.salt, seq: count, v: bytes.v, sig: bytes.sig }
}

function asObject(value: unknown): Json | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : null
}

function asCount(value: unknown): number | null {
  return Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : null
}

function asHex(value: unknown, length: number): string | null {
  const bytes = typeof value === 'string' ? fromHex(value, length) : null
  return bytes && toHex(bytes)
}

function malformed(action: string): ForgedError {
  return new ForgedError(`the server's reply to ${action} is malformed`)
}
