/** One server: a WebSocket opened when first needed and again after it closed, and the requests in flight on it. */
import { ConnectionError, UnsupportedError } from './errors.ts'
import { parseFrame, type Json, type Request } from './messages.ts'

/** The part of a WebSocket that is used. Any implementation will do; browsers and Node 22 have one. */
export interface SocketLike {
  readonly readyState: number
  send(text: string): void
  close(): void
  addEventListener(type: 'open' | 'close' | 'error', listener: () => void): void
  addEventListener(type: 'message', listener: (event: { readonly data: unknown }) => void): void
}

/** How to make one. */
export type SocketConstructor = new (url: string) => SocketLike

/** Requests in flight on one socket: what a server answers at once. Past it a request fails at once, not in a minute. */
export const MAX_IN_FLIGHT = 32

const OPEN = 1

interface Pending {
  readonly frame: string
  readonly resolve: (reply: Json) => void
  readonly reject: (error: Error) => void
}

export class Connection {
  #socket: SocketLike | null = null
  /** Whether this server has ever answered a request of ours: then it knows `dht_*`. */
  #understands = false
  #lastId = 0
  readonly #pending = new Map<string, Pending>()

  constructor(
    readonly url: string,
    private readonly WebSocket: SocketConstructor,
  ) {}

  /** The server's reply, a refusal included. Rejects when the socket fails, or with the signal's reason. */
  request(request: Request, signal: AbortSignal): Promise<Json> {
    signal.throwIfAborted()
    if (this.#pending.size >= MAX_IN_FLIGHT) throw new ConnectionError(`too many requests at once to ${this.url}`)
    const id = String(++this.#lastId)
    return new Promise<Json>((resolve, reject) => {
      const abort = () => reject(signal.reason)
      signal.addEventListener('abort', abort, { once: true })
      const settled = () => {
        this.#pending.delete(id)
        signal.removeEventListener('abort', abort)
      }
      const pending: Pending = {
        frame: JSON.stringify({ ...request, id }),
        resolve: (reply) => (settled(), resolve(reply)),
        reject: (error) => (settled(), reject(error)),
      }
      signal.addEventListener('abort', () => this.#pending.delete(id), { once: true })
      this.#pending.set(id, pending)
      const socket = (this.#socket ??= this.#open())
      if (socket?.readyState === OPEN) socket.send(pending.frame)
    })
  }

  close(): void {
    const socket = this.#socket
    this.#lost(new ConnectionError('the connection was closed by this page'))
    socket?.close()
  }

  #open(): SocketLike | null {
    let socket: SocketLike
    try {
      socket = new this.WebSocket(this.url)
    } catch {
      // An address that is none, or one that this page's policy forbids. Pending requests are told in a moment, when
      // they have a handler.
      queueMicrotask(() => this.#lost(new ConnectionError(`cannot connect to ${this.url}`)))
      return null
    }
    const ifCurrent = (act: () => void) => () => void (this.#socket === socket && act())
    const lost = ifCurrent(() => {
      this.#lost(new ConnectionError(`cannot connect to ${this.url}`))
      socket.close()
    })
    socket.addEventListener(
      'open',
      ifCurrent(() => this.#pending.forEach(({ frame }) => socket.send(frame))),
    )
    socket.addEventListener('error', lost)
    socket.addEventListener('close', lost)
    socket.addEventListener('message', ({ data }) => this.#socket === socket && this.#receive(data))
    return socket
  }

  #receive(data: unknown): void {
    const reply = parseFrame(data)
    if (!reply) return
    const pending = this.#pending.get(String(reply['id']))
    if (pending) {
      this.#understands = true
      pending.resolve(reply)
    } else if ('failure reason' in reply && !('id' in reply) && !this.#understands) {
      // A tracker without the extension answers an unknown action with an error that echoes no id, and stays open.
      const error = new UnsupportedError(`${this.url} is a tracker that serves no records`)
      this.#pending.forEach(({ reject }) => reject(error))
    }
  }

  #lost(error: Error): void {
    this.#socket = null
    this.#pending.forEach(({ reject }) => reject(error))
  }
}
