/**
 * Records: the mutable items of BEP 44, and the torrents they point to (BEP 46).
 *
 * The order of trust is in the types. A {@link SignedRecord} is what somebody sent; only {@link verifyRecord} and
 * {@link signRecord} make a {@link VerifiedRecord}. `v` stays the raw bencoded value from end to end.
 */
import { decode, encode, get, isCanonical, type Node } from './bencode.ts'
import { compare, concat, fromHex, toHex, utf8, type Bytes } from './bytes.ts'
import { verify, type SigningKey } from './ed25519.ts'
import { sha1 } from './sha1.ts'

/** Largest bencoded value, in bytes (BEP 44, error 205). */
export const MAX_VALUE = 1000

/** Longest salt, in bytes (BEP 44, error 207). */
export const MAX_SALT = 64

/** The highest sequence number, 2^53 − 1: past it JavaScript would lose count. */
export const MAX_SEQ = Number.MAX_SAFE_INTEGER

/** A mutable item as somebody sent it: the claim, not yet checked. */
export interface SignedRecord {
  /** The author's public key, lower-case hex. */
  readonly key: string
  /** Tells several records of one author apart; empty for none. */
  readonly salt: Bytes
  /** Grows with every version. */
  readonly seq: number
  /** The bencoded value, as signed. */
  readonly v: Bytes
  /** Over {@link signable}. */
  readonly sig: Bytes
}

declare const verified: unique symbol

/** A record whose signature, sizes and encoding have been checked. */
export interface VerifiedRecord extends SignedRecord {
  /** Where the record lives in the DHT, lower-case hex. */
  readonly target: string
  /** The torrent it points to, lower-case hex; `null` when its value is something else. */
  readonly infoHash: string | null
  readonly [verified]: true
}

/** Why a record is refused, with BEP 44's error code (203 for what BEP 44 gives no code of its own). */
export class RecordError extends Error {
  override name = 'RecordError'
  constructor(
    readonly code: 203 | 205 | 206 | 207,
    message: string,
  ) {
    super(message)
  }
}

/**
 * Checks everything BEP 44 asks, cheapest first, the signature last.
 * @throws {RecordError} the first check that fails
 */
export async function verifyRecord(record: SignedRecord): Promise<VerifiedRecord> {
  const value = checkParts(record.salt, record.seq, record.v)
  const key = fromHex(record.key, 32)
  if (!key || !(await verify(key, signable(record.salt, record.seq, record.v), record.sig))) {
    throw new RecordError(206, 'the signature does not verify')
  }
  return seal(record, value)
}

/** What to sign: a torrent to point to, or any bencoded value. */
export type Content = { readonly infoHash: string } | { readonly v: Bytes }

/**
 * Signs a new version.
 * @throws {RecordError} for a value, salt or sequence number that no peer would accept
 */
export async function signRecord(
  key: SigningKey,
  content: Content & { readonly seq: number; readonly salt?: Bytes },
): Promise<VerifiedRecord> {
  const { seq, salt = new Uint8Array() } = content
  const v = 'v' in content ? content.v : pointer(content.infoHash)
  const value = checkParts(salt, seq, v)
  const sig = await key.sign(signable(salt, seq, v))
  return seal({ key: key.publicKey, salt, seq, v, sig }, value)
}

/**
 * Whether `a` replaces `b` of the same target: a higher sequence number wins. Two values signed with the same number
 * are an author's mistake that happens; everybody keeps the bytewise larger, so that all agree.
 */
export function replaces(a: SignedRecord, b: SignedRecord): boolean {
  return a.seq > b.seq || (a.seq === b.seq && compare(a.v, b.v) > 0)
}

/**
 * Where a key's record lives. BEP 44: "the SHA-1 hash of the public key" and, with a salt, of "the public key with the
 * salt appended".
 */
export function recordTarget(publicKey: string, salt: Bytes = new Uint8Array()): string {
  const key = fromHex(publicKey, 32)
  if (!key) throw new TypeError('a public key must be 32 bytes (64 hexadecimal digits)')
  return toHex(sha1(concat(key, salt)))
}

/** Where an immutable item lives. BEP 44: "the SHA-1 hash of the bencoded value". */
export const itemTarget = (v: Bytes): string => toHex(sha1(v))

/** The bytes that are signed: `4:salt…` when there is a salt, then `3:seqi…e1:v…`, as they would be bencoded. */
export function signable(salt: Bytes, seq: number, v: Bytes): Bytes {
  const head = salt.length > 0 ? concat(utf8('4:salt'), encode(salt)) : new Uint8Array()
  return concat(head, utf8(`3:seqi${seq}e1:v`), v)
}

/** BEP 46: the value is "a dictionary with a key ih, whose value is the 20 byte infohash". */
function pointer(infoHash: string): Bytes {
  const ih = fromHex(infoHash, 20)
  if (!ih) throw new TypeError('an info hash must be 20 bytes (40 hexadecimal digits)')
  return encode({ ih })
}

/**
 * Reads a bencoded value, checking its size first, then that it is canonical.
 * @throws {RecordError}
 */
export function checkValue(v: Bytes): Node {
  if (v.length > MAX_VALUE) throw new RecordError(205, `the value is larger than ${MAX_VALUE} bytes`)
  try {
    const node = decode(v)
    if (isCanonical(node)) return node
  } catch {
    // falls through: both are the same fault to whoever made the record
  }
  throw new RecordError(203, 'the value is not canonical bencode')
}

function checkParts(salt: Bytes, seq: number, v: Bytes): Node {
  if (salt.length > MAX_SALT) throw new RecordError(207, `the salt is larger than ${MAX_SALT} bytes`)
  if (!Number.isSafeInteger(seq) || seq < 0) {
    throw new RecordError(203, 'the sequence number is not between 0 and 2^53-1')
  }
  return checkValue(v)
}

function seal(record: SignedRecord, value: Node): VerifiedRecord {
  const ih = get(value, 'ih')
  return Object.freeze({
    ...record,
    key: record.key.toLowerCase(),
    target: recordTarget(record.key, record.salt),
    infoHash: ih?.kind === 'bytes' && ih.value.length === 20 ? toHex(ih.value) : null,
  }) as VerifiedRecord
}
