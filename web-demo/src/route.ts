/** The address bar ⇄ what is open. `#magnet:?…` names the site; `x.page` and `x.at` the place in it. Pure. */
import { formatMagnet, parseMagnet, type Magnet } from 'swarmgate-client/magnet'

/** A place in a site; `page` is `null` for the page it opens with, `heading` for the top. */
export interface Place {
  readonly page: string | null
  readonly heading: string | null
}

export const HOME: Place = { page: null, heading: null }

/** A site and a place in it. */
export interface Route {
  readonly magnet: Magnet
  readonly place: Place
}

/**
 * Reads the fragment of an address; `null` when it is empty.
 * @throws {MagnetError} when it is something else than a usable link
 */
export function parseRoute(hash: string): Route | null {
  const link = hash.replace(/^#/, '')
  if (link === '') return null
  return parseLink(/^magnet%3a/i.test(link) ? safeDecode(link) : link)
}

/**
 * Reads what somebody pasted: a magnet link, or the address of a reader's page that carries one.
 * @throws {MagnetError}
 */
export function parseLink(text: string): Route {
  const link = text.trim().replace(/^(?:https?:\/\/[^#]*#|web\+)(?=magnet:)/i, '')
  const parameters = new URLSearchParams(link.slice(link.indexOf('?')).replaceAll('+', '%2B'))
  return {
    magnet: parseMagnet(link),
    place: { page: parameters.get('x.page') || null, heading: parameters.get('x.at') || null },
  }
}

/** The fragment for a place, `#` included. */
export function formatRoute({ magnet, place }: Route): string {
  const page = place.page === null ? '' : `&x.page=${encodeURIComponent(place.page)}`
  const heading = place.heading === null ? '' : `&x.at=${encodeURIComponent(place.heading)}`
  return `#${formatMagnet(magnet)}${page}${heading}`
}

/** Whether two links lead to the same site: a site is its key and salt, or without a key its info hash. */
export function sameSite(a: Magnet, b: Magnet): boolean {
  if (a.key !== null || b.key !== null) return a.key === b.key && String(a.salt) === String(b.salt)
  return a.infoHash === b.infoHash
}

function safeDecode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}
