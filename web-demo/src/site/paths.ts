/** Paths inside a site: what a torrent's files are called, which of them are pages, and where a link leads. Pure. */

/** A torrent's files by their path in the site: the torrent's own name, the folder around them all, taken off. */
export function byPath<F extends { readonly path: string }>(files: readonly F[]): ReadonlyMap<string, F> {
  const paths = files.map((file) => file.path.replaceAll('\\', '/'))
  const root = paths[0]?.split('/', 1)[0] ?? ''
  const folder = paths.every((path) => path.startsWith(`${root}/`)) ? root.length + 1 : 0
  return new Map(files.map((file, i) => [(paths[i] as string).slice(folder), file]))
}

/** Whether a file is shown as a page. */
export const isPage = (path: string): boolean => /\.(?:md|markdown)$/i.test(path)

/**
 * The page a site opens with: `index.md`, else `README.md`, else the first page, those nearest the top before others.
 * `null` when the site has no page.
 */
export function homePage(paths: Iterable<string>): string | null {
  const pages = [...paths].filter(isPage).sort((a, b) => depth(a) - depth(b) || (a < b ? -1 : 1))
  const named = (name: RegExp) => pages.find((path) => depth(path) === 0 && name.test(path))
  return named(/^index\.(?:md|markdown)$/i) ?? named(/^readme\.(?:md|markdown)$/i) ?? pages[0] ?? null
}

const depth = (path: string) => path.split('/').length - 1

/** Where a link or an image of a page leads. */
export type Destination =
  /** A place on a page of this site, its first line when `heading` is `null`. */
  | { readonly kind: 'page'; readonly path: string; readonly heading: string | null }
  /** A file of this site that is no page. */
  | { readonly kind: 'file'; readonly path: string }
  /** Somewhere else. */
  | { readonly kind: 'external'; readonly url: string }
  /** Another site or torrent. */
  | { readonly kind: 'magnet'; readonly link: string }
  /** Nowhere this reader goes, and why. */
  | { readonly kind: 'refused'; readonly reason: 'outside' | 'missing' | 'scheme' }

/**
 * Resolves a link found on the page at `from` against that page's own directory.
 *
 * A path that leaves the site is refused, not clamped: a link means one thing everywhere the site is read. A folder
 * leads to its index page, and a path without ending to the page of that name, as on the servers people write for.
 */
export function resolve(href: string, from: string, has: (path: string) => boolean): Destination {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(href)?.[1]?.toLowerCase()
  if (scheme === 'http' || scheme === 'https' || scheme === 'mailto') return { kind: 'external', url: href }
  if (scheme === 'magnet') return { kind: 'magnet', link: href }
  if (href.startsWith('//')) return { kind: 'external', url: `https:${href}` }
  if (scheme !== undefined) return { kind: 'refused', reason: 'scheme' }

  const [, rawPath = '', , rawHeading] = /^([^?#]*)(\?[^#]*)?(?:#(.*))?$/s.exec(href) ?? []
  const heading = rawHeading ? decode(rawHeading) : null
  if (rawPath === '') return { kind: 'page', path: from, heading }

  const segments = rawPath.startsWith('/') ? [] : from.split('/').slice(0, -1)
  for (const raw of rawPath.split('/')) {
    const segment = decode(raw)
    // An escaped slash or a backslash would be a separator to the next program that reads the path.
    if (/[/\\\0]/.test(segment)) return { kind: 'refused', reason: 'outside' }
    if (segment === '..') {
      if (segments.pop() === undefined) return { kind: 'refused', reason: 'outside' }
    } else if (segment !== '' && segment !== '.') {
      segments.push(segment)
    }
  }
  const path = segments.join('/')
  const folder = path === '' ? '' : `${path}/`
  const candidates = [path, `${path}.md`, `${folder}index.md`, `${folder}README.md`]
  const found = candidates.find((candidate) => candidate !== '' && has(candidate))
  if (found === undefined) return { kind: 'refused', reason: 'missing' }
  return isPage(found) ? { kind: 'page', path: found, heading } : { kind: 'file', path: found }
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text // a stray "%" in a name written unescaped
  }
}

/** The anchor of a heading, as GitHub makes them: what authors already write in their links. */
export function slug(heading: string): string {
  return heading
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{M}\p{N}\p{Pc}\- ]/gu, '')
    .replaceAll(' ', '-')
}

/** Types of images that are shown. The type comes from the name, as on any web server; the browser checks the rest. */
const IMAGES: Readonly<Record<string, string>> = {
  png: 'image/png',
  jpg: 'image/jpeg',
  jpeg: 'image/jpeg',
  gif: 'image/gif',
  webp: 'image/webp',
  avif: 'image/avif',
  svg: 'image/svg+xml',
  bmp: 'image/bmp',
  ico: 'image/x-icon',
}

/** The type of an image file; `null` for any other file. */
export const imageType = (path: string): string | null =>
  IMAGES[/\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? ''] ?? null
