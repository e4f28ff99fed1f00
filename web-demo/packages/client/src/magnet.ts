/**
 * Magnet links: `urn:btih` (BEP 9) and `urn:btpk` (BEP 46).
 *
 * `magnet:?xs=urn:btpk:<64 hex>[&s=<salt, hex>]` names a mutable torrent by its author's key;
 * `magnet:?xt=urn:btih:<40 hex or 32 base32>` names one torrent. A link may carry both: the key, and the version that
 * was current when it was shared. The rules and the sentences are those of the server's `wire::magnet`.
 */
import { fromHex, MAX_SALT, toHex, type Bytes } from './index.ts'

/** Longest link read, in bytes. Links are typed by strangers and shown to people; real ones stay well below. */
export const MAX_LENGTH = 16 * 1024

/** Most trackers, web seeds or peers kept of one link. */
export const MAX_LIST = 64

/** A parsed magnet link: at least one of `infoHash` and `key` is present. Hashes and keys are lower-case hex. */
export interface Magnet {
  /** `xt=urn:btih:…` */
  readonly infoHash: string | null
  /** `xs=urn:btpk:…` */
  readonly key: string | null
  /** `s=…`; empty for none. */
  readonly salt: Bytes
  /** `dn=…`: a suggestion, to be shown as text only. */
  readonly name: string | null
  /** `tr=…` */
  readonly trackers: readonly string[]
  /** `ws=…` (BEP 19) */
  readonly webSeeds: readonly string[]
  /** `x.pe=…`: `host:port` of peers. */
  readonly peers: readonly string[]
}

/** Why a text is not a usable magnet link; the message is one sentence to show. */
export class MagnetError extends Error {
  override name = 'MagnetError'
}

/**
 * Reads a link; parameters that are unknown are ignored.
 * @throws {MagnetError}
 */
export function parseMagnet(link: string): Magnet {
  if (new TextEncoder().encode(link).length > MAX_LENGTH)
    throw new MagnetError(`the magnet link is longer than ${MAX_LENGTH} characters`)
  const body = /^magnet:\?(.*)$/is.exec(link.trim())?.[1]
  if (body === undefined) throw new MagnetError('not a magnet link (it must start with "magnet:?")')

  const one = { infoHash: null, key: null, salt: null } as Record<'infoHash' | 'key' | 'salt', string | null>
  const set = (slot: keyof typeof one, value: string | null, title: string) => {
    if (value === null) throw new MagnetError(`the magnet link's ${title} is malformed`)
    if (one[slot] !== null && one[slot] !== value) {
      throw new MagnetError(`the magnet link names two different ${title.replace(/h$/, 'he')}s`)
    }
    one[slot] = value
  }
  const lists = { tr: [] as string[], ws: [] as string[], 'x.pe': [] as string[] }
  let name: string | null = null
  let v2 = false

  for (const pair of body.split('&')) {
    const equals = pair.indexOf('=')
    const value = equals < 0 ? '' : percentDecode(pair.slice(equals + 1))
    // "xt.1", "tr.2": the numbered form some clients write for repeated parameters.
    const parameter = (equals < 0 ? pair : pair.slice(0, equals)).replace(/^([^.]*)\.[0-9]*$/, '$1')
    if (parameter === 'xt') {
      const hash = afterPrefix(value, 'urn:btih:')
      if (hash !== null) set('infoHash', parseInfoHash(hash), 'info hash')
      else v2 ||= afterPrefix(value, 'urn:btmh:') !== null
    } else if (parameter === 'xs') {
      const key = afterPrefix(value, 'urn:btpk:')
      if (key !== null) set('key', normalHex(key, 32), 'public key')
    } else if (parameter === 's') {
      set('salt', value.length <= MAX_SALT * 2 ? normalHex(value) : null, 'salt')
    } else if (parameter === 'dn') {
      name ??= value.replaceAll('+', ' ')
    } else if (parameter === 'tr' || parameter === 'ws' || parameter === 'x.pe') {
      const list = lists[parameter]
      if (value !== '' && list.length < MAX_LIST && !list.includes(value)) list.push(value)
    }
  }

  if (one.infoHash === null && one.key === null) {
    throw new MagnetError(
      v2
        ? 'the magnet link names a v2-only torrent, which is not supported'
        : 'the magnet link names no torrent (it has neither xt=urn:btih nor xs=urn:btpk)',
    )
  }
  return {
    infoHash: one.infoHash,
    key: one.key,
    salt: fromHex(one.salt ?? '') ?? new Uint8Array(),
    name,
    trackers: lists.tr,
    webSeeds: lists.ws,
    peers: lists['x.pe'],
  }
}

/** The link, key first, as every reader of `btpk` links expects it. Absent parts may be left out. */
export function formatMagnet(magnet: Partial<Magnet>): string {
  const pairs: string[] = []
  if (magnet.key) {
    pairs.push(`xs=urn:btpk:${magnet.key}`)
    if (magnet.salt?.length) pairs.push(`s=${toHex(magnet.salt)}`)
  }
  if (magnet.infoHash) pairs.push(`xt=urn:btih:${magnet.infoHash}`)
  if (typeof magnet.name === 'string') pairs.push(`dn=${escape(magnet.name)}`)
  for (const tracker of magnet.trackers ?? []) pairs.push(`tr=${escape(tracker)}`)
  for (const seed of magnet.webSeeds ?? []) pairs.push(`ws=${escape(seed)}`)
  for (const peer of magnet.peers ?? []) pairs.push(`x.pe=${escape(peer)}`)
  return `magnet:?${pairs.join('&')}`
}

/** Everything but RFC 3986's unreserved characters. */
function escape(value: string): string {
  return encodeURIComponent(value.toWellFormed()).replace(
    /[!'()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  )
}

/** Unlike `decodeURIComponent`, takes what strangers write: a stray "%" stays, bytes that are not UTF-8 become U+FFFD. */
function percentDecode(value: string): string {
  return value.replace(/(?:%[0-9a-f]{2})+/gi, (run) =>
    new TextDecoder().decode(fromHex(run.replaceAll('%', '')) ?? new Uint8Array()),
  )
}

/** What follows `prefix`. URN namespaces are case-insensitive (RFC 8141 §3.1). */
function afterPrefix(value: string, prefix: string): string | null {
  return value.slice(0, prefix.length).toLowerCase() === prefix ? value.slice(prefix.length) : null
}

function normalHex(hex: string, length?: number): string | null {
  const bytes = fromHex(hex, length)
  return bytes && toHex(bytes)
}

/**
 * BEP 9: "the info-hash hex encoded, for a total of 40 characters. For compatability with existing links in the wild,
 * clients should also support the 32 character base32 encoded info-hash".
 */
function parseInfoHash(hash: string): string | null {
  if (!/^[a-z2-7]{32}$/i.test(hash)) return normalHex(hash, 20)
  let bits = ''
  for (const c of hash.toUpperCase()) bits += 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c).toString(2).padStart(5, '0')
  return bits.replace(/[01]{4}/g, (nibble) => Number.parseInt(nibble, 2).toString(16))
}
