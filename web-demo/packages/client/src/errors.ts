/** What can go wrong between a page and its servers, one class per thing a page would do something different about. */
import type { VerifiedRecord } from './record.ts'

/** The server refused, in its own words. `code` is one of `spec/dht-proxy.md`, or `null`. */
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

/** The server is a tracker that does not know `dht_*`, or not this action. */
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

/** The server's answer is none: malformed, signed by nobody, or about something that was not asked. */
export class ForgedError extends Error {
  override name = 'ForgedError'
  constructor(
    message: string,
    readonly fault: 'malformed' | 'bad-signature' | 'not-asked',
  ) {
    super(message)
  }
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
