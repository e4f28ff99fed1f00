/** The part of WebTorrent that is used; the types published for it lag behind. */
declare module 'webtorrent/dist/webtorrent.min.js' {
  export interface TorrentFile {
    readonly path: string
    readonly length: number
    select(priority?: number): void
    arrayBuffer(): Promise<ArrayBuffer>
  }

  export interface Torrent {
    readonly name: string
    readonly length: number
    readonly files: readonly TorrentFile[]
    readonly pieces: readonly unknown[]
    readonly numPeers: number
    readonly progress: number
    readonly downloadSpeed: number
    readonly destroyed: boolean
    select(firstPiece: number, lastPiece: number, priority?: number): void
    addWebSeed(url: string): void
    on(event: 'metadata' | 'ready' | 'wire' | 'download' | 'done', listener: () => void): this
    on(event: 'error' | 'warning', listener: (error: Error | string) => void): this
    destroy(options?: { readonly destroyStore?: boolean }): void
  }

  /** The interface of `abstract-chunk-store`. */
  export interface ChunkStore {
    readonly chunkLength: number
    put(index: number, chunk: Uint8Array, done?: (error: Error | null) => void): void
    get(
      index: number,
      options: { readonly offset?: number; readonly length?: number } | null,
      done: (error: Error | null, chunk?: Uint8Array) => void,
    ): void
    close(done?: (error: Error | null) => void): void
    destroy(done?: (error: Error | null) => void): void
  }

  export default class WebTorrent {
    constructor(options: { readonly tracker?: { readonly rtcConfig?: RTCConfiguration } })
    add(
      torrent: string,
      options: {
        readonly announce: readonly string[]
        readonly store: new (chunkLength: number) => ChunkStore
        readonly storeCacheSlots: number
        readonly deselect: boolean
      },
    ): Torrent
    on(event: 'error', listener: (error: Error | string) => void): this
    static readonly WEBRTC_SUPPORT: boolean
  }
}
