/** A time limit and the caller's own signal, as one signal. */
import { TimeoutError } from './errors.ts'

export class Deadline {
  readonly #controller = new AbortController()
  readonly #ends: number
  readonly #timer: ReturnType<typeof setTimeout>
  readonly #forward = () => this.#controller.abort(this.outer?.reason)

  constructor(
    milliseconds: number,
    private readonly outer?: AbortSignal,
  ) {
    outer?.throwIfAborted()
    this.#ends = Date.now() + milliseconds
    const late = () => this.#controller.abort(new TimeoutError('the server did not answer in time'))
    this.#timer = setTimeout(late, milliseconds)
    outer?.addEventListener('abort', this.#forward)
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** A limit of one `count`th of what is left of this one. */
  share(count: number): Deadline {
    return new Deadline(Math.max(0, this.#ends - Date.now()) / count, this.signal)
  }

  /** Waits. When the time is up meanwhile, throws `problem`: why there was anything to wait for. */
  async pause(milliseconds: number, problem: Error): Promise<void> {
    const wait = new Deadline(milliseconds, this.signal)
    await new Promise((resolve) => wait.signal.addEventListener('abort', resolve))
    wait.clear()
    this.outer?.throwIfAborted()
    if (this.signal.aborted) throw problem
  }

  /** To be called when it is no longer needed: lets go of the timer and of the caller's signal. */
  clear(): void {
    clearTimeout(this.#timer)
    this.outer?.removeEventListener('abort', this.#forward)
  }
}
