/**
 * SHA-1 (RFC 3174), because a DHT target is one. Synchronous and our own: the inputs are at most a kilobyte, and the
 * platform's digest is asynchronous and absent from pages without TLS.
 */
import type { Bytes } from './bytes.ts'

const rotate = (x: number, n: number) => (x << n) | (x >>> (32 - n))

export function sha1(message: Uint8Array): Bytes {
  // RFC 3174 §4: a one bit, zeros up to 448 mod 512, then the length in bits as 64 bits.
  const padded = new Uint8Array((((message.length + 8) >> 6) + 1) << 6)
  padded.set(message)
  padded[message.length] = 0x80
  const view = new DataView(padded.buffer)
  view.setUint32(padded.length - 4, message.length * 8)

  const h = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0] as [number, number, number, number, number]
  const w = new Int32Array(80)
  for (let block = 0; block < padded.length; block += 64) {
    for (let t = 0; t < 80; t++) {
      w[t] =
        t < 16 ? view.getInt32(block + t * 4) : rotate(at(w, t - 3) ^ at(w, t - 8) ^ at(w, t - 14) ^ at(w, t - 16), 1)
    }
    let [a, b, c, d, e] = h
    for (let t = 0; t < 80; t++) {
      const [f, k] = round(t, b, c, d)
      const next = (rotate(a, 5) + f + e + at(w, t) + k) | 0
      e = d
      d = c
      c = rotate(b, 30)
      b = a
      a = next
    }
    h[0] += a
    h[1] += b
    h[2] += c
    h[3] += d
    h[4] += e
    h.forEach((word, i) => (h[i] = word | 0))
  }
  const out = new DataView(new ArrayBuffer(20))
  h.forEach((word, i) => out.setInt32(i * 4, word))
  return new Uint8Array(out.buffer)
}

const at = (words: Int32Array, i: number) => words[i] ?? 0

/** RFC 3174 §5: the function and the constant of step `t`. */
function round(t: number, b: number, c: number, d: number): [f: number, k: number] {
  if (t < 20) return [(b & c) | (~b & d), 0x5a827999]
  if (t < 40) return [b ^ c ^ d, 0x6ed9eba1]
  if (t < 60) return [(b & c) | (b & d) | (c & d), 0x8f1bbcdc]
  return [b ^ c ^ d, 0xca62c1d6]
}
