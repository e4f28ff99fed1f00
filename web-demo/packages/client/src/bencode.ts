/**
 * Bencode (BEP 3) that keeps what it read.
 *
 * A BEP 44 value is signed and hashed as it was sent, so every decoded node remembers the exact bytes it came from.
 * Dictionaries with keys out of order are read, since deployed nodes send them; {@link isCanonical} tells whether the
 * text is the one and only bencoding of its value, which is what may be signed.
 */
import { compare, concat, text, utf8, type Bytes } from './bytes.ts'

/** Nesting allowed in a document. Real ones nest to four or five; the limit keeps the stack bounded. */
export const MAX_DEPTH = 48

/** Values allowed in a document. Records hold a handful; the largest honest metainfo some tens of thousands. */
export const MAX_NODES = 1_000_000

/** Longest number looked for, in characters: numbers are short, so the search for their end is. */
const LONGEST_NUMBER = 1024

/** A decoded value, with the exact bytes it was decoded from. */
export type Node = { readonly raw: Uint8Array } & (
  | { readonly kind: 'int'; readonly value: bigint }
  | { readonly kind: 'bytes'; readonly value: Uint8Array }
  | { readonly kind: 'list'; readonly items: readonly Node[] }
  | { readonly kind: 'dict'; readonly entries: readonly (readonly [key: Uint8Array, value: Node])[] }
)

/** What can be written as bencode. Strings are written as UTF-8, numbers must be whole. */
export type Encodable =
  number | bigint | string | Uint8Array | readonly Encodable[] | { readonly [key: string]: Encodable }

/** The text is not bencode; `offset` is the first byte that does not fit. */
export class BencodeError extends Error {
  override name = 'BencodeError'
  constructor(
    readonly offset: number,
    readonly reason: string,
  ) {
    super(`invalid bencode at byte ${offset}: ${reason}`)
  }
}

/**
 * Decodes a whole document.
 * @throws {BencodeError} for anything that is not exactly one bencoded value, or nests or counts past the limits
 */
export function decode(input: Uint8Array): Node {
  const parser = new Parser(input)
  const node = parser.value(0)
  if (parser.at < input.length) throw new BencodeError(parser.at, 'data after the end')
  return node
}

/** The value under `key`, if this is a dictionary that has it. */
export function get(node: Node, key: string): Node | undefined {
  if (node.kind !== 'dict') return undefined
  const wanted = utf8(key)
  return node.entries.find(([name]) => compare(name, wanted) === 0)?.[1]
}

/**
 * Whether dictionary keys are sorted as raw strings at every level (BEP 3: "Keys must be strings and appear in sorted
 * order (sorted as raw strings, not alphanumerics)"). A text with numbers or duplicates wrong is not decoded at all.
 */
export function isCanonical(node: Node): boolean {
  if (node.kind === 'list') return node.items.every(isCanonical)
  if (node.kind !== 'dict') return true
  return node.entries.every(([key, value], i) => {
    const previous = node.entries[i - 1]
    return (previous === undefined || compare(previous[0], key) < 0) && isCanonical(value)
  })
}

/** The canonical bencoding of `value`. */
export function encode(value: Encodable): Bytes {
  if (typeof value === 'string') return encode(utf8(value))
  if (typeof value === 'bigint') return utf8(`i${value}e`)
  if (typeof value === 'number') {
    if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is not a whole number that fits`)
    return utf8(`i${value}e`)
  }
  if (isBytes(value)) return concat(utf8(`${value.length}:`), value)
  if (Array.isArray(value)) return concat(utf8('l'), ...value.map(encode), utf8('e'))
  const entries = Object.entries(value as { readonly [key: string]: Encodable }).map(
    ([key, entry]) => [utf8(key), encode(entry)] as const,
  )
  entries.sort(([a], [b]) => compare(a, b))
  return concat(utf8('d'), ...entries.flatMap(([key, entry]) => [encode(key), entry]), utf8('e'))
}

const [INT, LIST, DICT, END, COLON] = ['i', 'l', 'd', 'e', ':'].map((c) => c.charCodeAt(0)) as [
  number,
  number,
  number,
  number,
  number,
]
/** Not `instanceof`, which knows only the bytes of its own window. */
const isBytes = (value: unknown): value is Uint8Array => ArrayBuffer.isView(value)

const isDigit = (byte: number | undefined) => byte !== undefined && byte >= 0x30 && byte <= 0x39

class Parser {
  at = 0
  private nodes = 0

  constructor(private readonly input: Uint8Array) {}

  value(depth: number): Node {
    const start = this.at
    if (depth > MAX_DEPTH) throw this.error('nested too deeply')
    if (++this.nodes > MAX_NODES) throw this.error('too many values')
    const first = this.peek()
    const raw = () => this.input.subarray(start, this.at)
    if (first === INT) {
      const value = this.int()
      return { raw: raw(), kind: 'int', value }
    }
    if (first === LIST) {
      const items = this.list(depth)
      return { raw: raw(), kind: 'list', items }
    }
    if (first === DICT) {
      const entries = this.dict(depth)
      return { raw: raw(), kind: 'dict', entries }
    }
    if (!isDigit(first)) throw this.error('expected a value')
    const value = this.string()
    return { raw: raw(), kind: 'bytes', value }
  }

  private int(): bigint {
    this.at++
    const digits = this.until(END)
    // BEP 3: "i-0e is invalid. All encodings with a leading zero, such as i03e, are invalid, other than i0e".
    if (!/^(?:0|-?[1-9][0-9]*)$/.test(digits)) throw this.error('not an integer')
    return BigInt(digits)
  }

  private string(): Uint8Array {
    const digits = this.until(COLON)
    const length = /^(?:0|[1-9][0-9]*)$/.test(digits) ? Number(digits) : Infinity
    if (length > this.input.length - this.at) throw this.error('string length does not fit')
    this.at += length
    return this.input.subarray(this.at - length, this.at)
  }

  private list(depth: number): Node[] {
    this.at++
    const items: Node[] = []
    while (this.peek() !== END) items.push(this.value(depth + 1))
    this.at++
    return items
  }

  private dict(depth: number): [Uint8Array, Node][] {
    this.at++
    const entries: [Uint8Array, Node][] = []
    while (this.peek() !== END) {
      if (!isDigit(this.peek())) throw this.error('dictionary keys are strings')
      entries.push([this.string(), this.value(depth + 1)])
    }
    this.at++
    const keys = entries.map(([key]) => key).sort(compare)
    if (keys.some((key, i) => i > 0 && compare(keys[i - 1] as Uint8Array, key) === 0)) throw this.error('duplicate key')
    return entries
  }

  private peek(): number {
    const byte = this.input[this.at]
    if (byte === undefined) throw this.error('unexpected end')
    return byte
  }

  /** The text up to `end`, which is consumed too. */
  private until(end: number): string {
    const window = this.input.subarray(this.at, this.at + LONGEST_NUMBER)
    const length = window.indexOf(end)
    if (length < 0) throw this.error('unterminated number')
    this.at += length + 1
    return text(window.subarray(0, length))
  }

  private error(reason: string): BencodeError {
    return new BencodeError(this.at, reason)
  }
}
