/**
 * Keeps the pieces of a torrent in memory.
 *
 * WebTorrent's own store in browsers is a folder of the origin's private file system, which every page that loads
 * WebTorrent empties at start: a second tab would pull the pieces from under the first.
 */
import type { ChunkStore } from 'webtorrent/dist/webtorrent.min.js'

type Done = (error: Error | null, chunk?: Uint8Array) => void

export class MemoryStore implements ChunkStore {
  readonly #chunks = new Map<number, Uint8Array>()

  constructor(readonly chunkLength: number) {}

  put(index: number, chunk: Uint8Array, done?: Done): void {
    this.#chunks.set(index, chunk)
    if (done) queueMicrotask(() => done(null))
  }

  get(index: number, options: { readonly offset?: number; readonly length?: number } | null | Done, done?: Done): void {
    if (typeof options === 'function') return this.get(index, null, options)
    const chunk = this.#chunks.get(index)
    const { offset = 0, length = (chunk?.length ?? 0) - offset } = options ?? {}
    queueMicrotask(() =>
      chunk ? done?.(null, chunk.subarray(offset, offset + length)) : done?.(new Error('the chunk is not there yet')),
    )
  }

  close(done?: Done): void {
    this.destroy(done)
  }

  destroy(done?: Done): void {
    this.#chunks.clear()
    if (done) queueMicrotask(() => done(null))
  }
}
