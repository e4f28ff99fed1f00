/** What can go wrong between a page and its servers, one class per thing a page would do something different about. */
import type { VerifiedRecord } from './record.ts'

/** The server refused, in its own words. `code` is BEP 44's (203, 205, 206, 207, 301, 302), or `null`. */
export class ProxyError extends Error {
  override name = 'ProxyError'
  constructor(
    message: string,
    readonly code: number | null,
    /** The record that stands, when the refusal named one; it has been verified. */
    readonly current: VerifiedRecord | null = null,
  ) {
    super(message)
  }
}

/**
 * Another version stands (301: not the one `cas` named; 302: a newer one). Show the difference and let the author
 * choose; signing again with a higher `seq` would throw the other version away.
 */
export class ConflictError extends ProxyError {
  override name = 'ConflictError'
}

/** The server is a tracker that does not know `dht_*`. */
export class UnsupportedError extends Error {
  override name = 'UnsupportedError'
}

/** No server could be reached. */
export class ConnectionError extends Error {
  override name = 'ConnectionError'
}

/** The server was reached and did not answer in time. */
export class TimeoutError extends Error {
  override name = 'TimeoutError'
}

/** The server answered with something that is not an answer: malformed, or a record that does not verify. */
export class ForgedError extends Error {
  override name = 'ForgedError'
}

/** The only record offered is older than one already seen; it was not taken. */
export class StaleError extends Error {
  override name = 'StaleError'
  constructor(
    /** What was offered. */
    readonly seq: number,
    /** What has been seen before, or was asked for as the least. */
    readonly floor: number,
  ) {
    super(`the record offered (seq ${seq}) is older than one already seen (seq ${floor})`)
  }
}
