// Content that no piece of which is like another, made in the same way here and in pages.

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import bencode from 'bencode'

/** Bytes in a piece of the torrents made here and in pages. */
export const PIECE = 1 << 16

/**
 * Noise of xorshift32. It must stay free of everything around it: pages are given its source.
 * @param {number} size  bytes, a multiple of four
 * @param {number} seed  not zero
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function noise(size, seed) {
  const words = new Uint32Array(size / 4)
  let word = seed
  for (let n = 0; n < words.length; n++) {
    word ^= word << 13
    word ^= word >>> 17
    word ^= word << 5
    words[n] = word
  }
  return new Uint8Array(words.buffer)
}

/**
 * A torrent of one file, as pages make it: its info hash, and its metainfo with a tracker.
 * @param {string} name
 * @param {Uint8Array} bytes
 * @param {string} [announce]
 */
export function torrentOf(name, bytes, announce) {
  const pieces = []
  for (let at = 0; at < bytes.length; at += PIECE) pieces.push(sha1(bytes.subarray(at, at + PIECE)))
  const info = { length: bytes.length, name, 'piece length': PIECE, pieces: Buffer.concat(pieces) }
  const file = Buffer.from(bencode.encode({ ...(announce && { announce }), info }))
  return { infoHash: sha1(bencode.encode(info)).toString('hex'), file }
}

/** @param {Uint8Array} bytes */
function sha1(bytes) {
  return createHash('sha1').update(bytes).digest()
}

/** @param {Uint8Array} bytes */
export function sha256(bytes) {
  return createHash('sha256').update(bytes).digest('hex')
}

/** @param {string} path */
export async function sha256OfFile(path) {
  const hash = createHash('sha256')
  for await (const part of createReadStream(path)) hash.update(part)
  return hash.digest('hex')
}

/**
 * Numbers below one, always the same for a seed: what is left to chance can be repeated.
 * @param {number} seed
 */
export function chance(seed) {
  let word = seed | 1
  return () => {
    word = (Math.imul(word, 1664525) + 1013904223) >>> 0
    return word / 2 ** 32
  }
}

/**
 * @template T
 * @param {T[]} items
 * @param {() => number} random
 * @returns {T[]}
 */
export function shuffled(items, random) {
  return items
    .map((item) => ({ item, at: random() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item)
}
