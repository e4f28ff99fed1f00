/** Bytes that own their memory, as the platform's crypto wants them. */
export type Bytes = Uint8Array<ArrayBuffer>

const encoder = new TextEncoder()

/** The UTF-8 bytes of a text. */
export const utf8 = (text: string): Bytes => encoder.encode(text)

/** The text of UTF-8 bytes; what is not UTF-8 becomes U+FFFD. */
export const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

/** The bytes of all parts, one after another. */
export function concat(...parts: readonly Uint8Array[]): Bytes {
  const out = new Uint8Array(parts.reduce((length, part) => length + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

/** Lower-case hexadecimal. */
export function toHex(bytes: Uint8Array): string {
  let out = ''
  for (const byte of bytes) out += byte.toString(16).padStart(2, '0')
  return out
}

/** Reads hexadecimal of either case; `null` for anything else, or for another `length` (in bytes) than asked. */
export function fromHex(hex: string, length = hex.length / 2): Bytes | null {
  if (hex.length !== length * 2 || !/^(?:[0-9a-f]{2})*$/i.test(hex)) return null
  return Uint8Array.from({ length }, (_, i) => Number.parseInt(hex.slice(i * 2, i * 2 + 2), 16))
}

/** Orders byte strings as bencode and BEP 44 tie-breaking do: byte by byte, a prefix before what it begins. */
export function compare(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length && i < b.length; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0)
    if (difference !== 0) return difference
  }
  return a.length - b.length
}
