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

/** Requests in flight on one socket: as many as a server takes (`spec/dht-proxy.md`, Limits). More wait for their turn. */
export const MAX_IN_FLIGHT = 32

/** Requests that wait for their turn or their reply, of one server: no page has that many sites. */
const MAX_PENDING = 1_000

/** How long a connection may take to open, milliseconds: an address that swallows packets is not waited for. */
const OPENING = 8_000

/**
 * How long a server may take to say that it knows `dht_*`, milliseconds; it does so without asking anybody. Trackers that
 * do not know it answer with an error, close the connection, or say nothing.
 */
const INTRODUCTION = 5_000

const OPEN = 1

interface Pending {
  readonly frame: string
  sent: boolean
  readonly resolve: (reply: Json) => void
  readonly reject: (error: unknown) => void
}

/** Hears what a server sends unasked about a target; `null` when the socket is lost, and with it every subscription. */
export type Follower = (push: Json | null) => void

export class Connection {
  #socket: SocketLike | null = null
  /** Whether this server has ever answered a request of ours: then it knows `dht_*`. */
  #understands = false
  /** Ends the opening, then the introduction, if it takes too long. */
  #impatience: ReturnType<typeof setTimeout> | undefined
  #lastId = 0
  readonly #pending = new Map<string, Pending>()
  readonly #followers = new Map<string, Set<Follower>>()

  constructor(
    readonly url: string,
    private readonly WebSocket: SocketConstructor,
  ) {}

  /** The server's reply, a refusal included. Rejects when the socket fails, or with the signal's reason. */
  async request(request: Request, signal: AbortSignal): Promise<Json> {
    signal.throwIfAborted()
    if (this.#pending.size >= MAX_PENDING) throw new ConnectionError(`too many requests at once to ${this.url}`)
    const id = String(++this.#lastId)
    const abort = () => this.#pending.get(id)?.reject(signal.reason)
    signal.addEventListener('abort', abort)
    try {
      return await new Promise<Json>((resolve, reject) => {
        const frame = JSON.stringify({ ...request, id })
        this.#pending.set(id, { frame, sent: false, resolve, reject })
        this.#socket ??= this.#open()
        this.#sendPending()
      })
    } finally {
      this.#pending.delete(id)
      signal.removeEventListener('abort', abort)
      this.#sendPending()
    }
  }

  /** Sends requests in their order, as long as the server takes more. */
  #sendPending(): void {
    const socket = this.#socket
    if (socket?.readyState !== OPEN) return
    let inFlight = 0
    for (const request of this.#pending.values()) {
      if (++inFlight > MAX_IN_FLIGHT) return
      if (!request.sent) socket.send(request.frame)
      request.sent = true
    }
  }

  /** Sends a request whose reply nobody waits for, if there is a socket to send it on. */
  notify(request: Request): void {
    if (this.#socket?.readyState === OPEN) this.#socket.send(JSON.stringify({ ...request, id: String(++this.#lastId) }))
  }

  /** Has `follower` hear of a target, until the function returned is called: it says whether nobody else hears of it. */
  follow(target: string, follower: Follower): () => boolean {
    const followers = this.#followers.get(target) ?? new Set()
    this.#followers.set(target, followers.add(follower))
    return () => {
      followers.delete(follower)
      return followers.size === 0 && this.#followers.delete(target)
    }
  }

  close(): void {
    this.#end(new ConnectionError('the connection was closed by this page'))
  }

  #open(): SocketLike {
    let socket: SocketLike
    try {
      socket = new this.WebSocket(this.url)
    } catch {
      throw new ConnectionError(`${this.url} is not an address that this page may connect to`)
    }
    let opened = false
    this.#impatience = setTimeout(() => this.#end(new ConnectionError(`${this.url} does not answer`)), OPENING)
    const isCurrent = () => this.#socket === socket
    const lost = () => {
      if (!isCurrent()) return
      const turnedAway = opened && !this.#understands
      this.#end(turnedAway ? this.#unsupported() : new ConnectionError(`cannot connect to ${this.url}`))
    }
    socket.addEventListener('open', () => {
      opened = true
      if (isCurrent()) this.#introduce(socket)
    })
    socket.addEventListener('error', lost)
    socket.addEventListener('close', lost)
    socket.addEventListener('message', ({ data }) => isCurrent() && this.#receive(data))
    return socket
  }

  /** Asks a server that has not answered yet what it can do, ahead of the requests that wait for it. */
  #introduce(socket: SocketLike): void {
    clearTimeout(this.#impatience)
    if (!this.#understands) {
      const id = String(++this.#lastId)
      socket.send(JSON.stringify({ action: 'dht_info', id } satisfies Request & { id: string }))
      this.#impatience = setTimeout(() => this.#end(this.#unsupported()), INTRODUCTION)
    }
    this.#sendPending()
  }

  #receive(data: unknown): void {
    const reply = parseFrame(data)
    if (!reply) return
    if (reply['action'] === 'dht_update') {
      this.#followers.get(String(reply['target']).toLowerCase())?.forEach((follower) => follower(reply))
    } else if (typeof reply['id'] === 'string' && String(reply['action']).startsWith('dht_')) {
      this.#understands = true
      clearTimeout(this.#impatience)
      this.#pending.get(reply['id'])?.resolve(reply)
    } else if ('failure reason' in reply && !this.#understands) {
      this.#end(this.#unsupported())
    }
  }

  /** Lets go of the socket; the next request opens another, and the server may introduce itself anew. */
  #end(error: Error): void {
    const socket = this.#socket
    this.#socket = null
    clearTimeout(this.#impatience)
    for (const { reject } of [...this.#pending.values()]) reject(error)
    for (const followers of this.#followers.values()) followers.forEach((follower) => follower(null))
    socket?.close()
  }

  #unsupported(): UnsupportedError {
    return new UnsupportedError(`${this.url} is a tracker that serves no records`)
  }
}
