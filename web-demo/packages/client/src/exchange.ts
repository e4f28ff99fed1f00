/** The messages of the peer-wire extension `sg_record` (`spec/record-exchange.md`): payloads ⇄ types, pure. */
import { bencode, itemTarget, MAX_SALT, MAX_SEQ, toHex, type Bytes, type SignedRecord } from './index.ts'

/** Its name in the extension handshake (BEP 10). */
export const NAME = 'sg_record'

/** Longest payload, bytes. */
const MAX_PAYLOAD = 4096

/** Records of one connection. */
const MAX_RECORDS = 16

/** A version without its content. */
export interface Version {
  readonly seq: number
  /** The SHA-1 of its value, lower-case hex. */
  readonly hash: string
}

/** A record's name, and the newest version its sender has; `null` when it has none and wants one. */
export interface Summary {
  readonly key: string
  readonly salt: Bytes
  readonly version: Version | null
}

export type Message =
  | { readonly kind: 'have'; readonly records: readonly Summary[] }
  | { readonly kind: 'record'; readonly record: SignedRecord }
  /** Of a later version of the extension. */
  | { readonly kind: 'unknown' }

export const versionOf = ({ seq, v }: SignedRecord): Version => ({ seq, hash: itemTarget(v) })

/** What a payload says, not yet believed; `null` for one that is to be ignored. */
export function decodeMessage(payload: Uint8Array): Message | null {
  if (payload.length > MAX_PAYLOAD) return null
  let node: bencode.Node
  try {
    node = bencode.decode(payload)
  } catch {
    return null
  }
  const type = int(node, 'msg_type')
  if (type === 0) return readHave(node)
  if (type === 1) return readRecord(node)
  return type === null ? null : { kind: 'unknown' }
}

export function encodeHave(records: readonly Summary[]): Bytes {
  return bencode.encode({
    msg_type: 0,
    r: records.map(({ key, salt, version }) => ({
      ...name(key, salt),
      ...(version && { h: unhex(version.hash), seq: version.seq }),
    })),
  })
}

export function encodeRecord({ key, salt, seq, v, sig }: SignedRecord): Bytes {
  return bencode.encode({ msg_type: 1, ...name(key, salt), seq, sig, v })
}

function readHave(node: bencode.Node): Message | null {
  const list = bencode.get(node, 'r')
  if (list?.kind !== 'list') return null
  const records = list.items.slice(0, MAX_RECORDS).map(readSummary)
  return records.includes(null) ? null : { kind: 'have', records: records as Summary[] }
}

function readSummary(node: bencode.Node): Summary | null {
  const named = readName(node)
  if (!named) return null
  if (!bencode.get(node, 'seq') && !bencode.get(node, 'h')) return { ...named, version: null }
  const [seq, hash] = [int(node, 'seq'), bytes(node, 'h', 20)]
  if (seq === null || seq < 0 || seq > MAX_SEQ || !hash) return null
  return { ...named, version: { seq, hash: toHex(hash) } }
}

function readRecord(node: bencode.Node): Message | null {
  const named = readName(node)
  const [seq, v, sig] = [int(node, 'seq'), bytes(node, 'v'), bytes(node, 'sig', 64)]
  if (!named || seq === null || !v || !sig) return null
  return { kind: 'record', record: { ...named, seq, v, sig } }
}

function readName(node: bencode.Node): { key: string; salt: Bytes } | null {
  const key = bytes(node, 'k', 32)
  const salt = bencode.get(node, 'salt') ? bytes(node, 'salt') : new Uint8Array()
  return key && salt && salt.length <= MAX_SALT ? { key: toHex(key), salt } : null
}

const name = (key: string, salt: Bytes) => ({ k: unhex(key), ...(salt.length > 0 && { salt }) })

const unhex = (hex: string): Bytes => Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16))

function int(node: bencode.Node, key: string): number | null {
  const value = bencode.get(node, key)
  return value?.kind === 'int' ? Number(value.value) : null
}

/** A copy: what it was decoded from is the network's buffer. */
function bytes(node: bencode.Node, key: string, length?: number): Bytes | null {
  const value = bencode.get(node, key)
  if (value?.kind !== 'bytes' || (length !== undefined && value.value.length !== length)) return null
  return Uint8Array.from(value.value)
}
