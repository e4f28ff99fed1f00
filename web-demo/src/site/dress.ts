/** Turns the clean nodes of a page into a page of its site: anchors, links that work, images that wait for their bytes. */
import { text } from '../text.ts'
import { imageType, resolve, slug, type Destination } from './paths.ts'

/** Prefix of the ids of headings, so that no page can take an id of the app. */
const HEADING = 'at-'

export interface Context {
  /** The path of the page itself. */
  readonly path: string
  readonly has: (path: string) => boolean
  /** The address of a place in this site, for the address bar. */
  readonly href: (page: string, heading: string | null) => string
  /** The address at which another magnet link opens; `null` when it is unusable. */
  readonly open: (link: string) => string | null
}

/** Dresses `body` in place. */
export function dress(body: DocumentFragment, context: Context): void {
  // Text runs the way its own letters do, paragraph by paragraph.
  for (const block of body.querySelectorAll('p, li, h1, h2, h3, h4, h5, h6, blockquote, td, th, dd, dt')) {
    if (!block.hasAttribute('dir')) block.setAttribute('dir', 'auto')
  }
  dressHeadings(body, context)
  for (const link of body.querySelectorAll('a')) dressLink(link, context)
  for (const image of body.querySelectorAll('img')) dressImage(image, context)
  for (const table of body.querySelectorAll('table')) table.replaceWith(scrollable(table))
  for (const code of body.querySelectorAll('pre')) dressCode(code)
  for (const box of body.querySelectorAll('input')) {
    box.closest('li')?.classList.add('task')
    box.setAttribute('aria-label', box.hasAttribute('checked') ? text.done : text.notDone)
  }
}

/** The element that a link to `heading` means. */
export function findHeading(root: ParentNode, heading: string): Element | null {
  const wanted = HEADING + heading
  const all = [...root.querySelectorAll(`[id^="${HEADING}"]`)]
  return all.find(({ id }) => id === wanted) ?? all.find(({ id }) => id === HEADING + slug(heading)) ?? null
}

function dressHeadings(body: DocumentFragment, context: Context): void {
  const taken = new Map<string, number>()
  for (const heading of body.querySelectorAll('h1, h2, h3, h4, h5, h6')) {
    const title = heading.textContent ?? ''
    const base = slug(title)
    if (base === '') continue
    const before = taken.get(base) ?? 0
    taken.set(base, before + 1)
    const anchor = before === 0 ? base : `${base}-${before}`
    heading.id = HEADING + anchor
    const link = create('a', 'anchor', '#')
    link.setAttribute('href', context.href(context.path, anchor))
    link.setAttribute('aria-label', text.headingLink(title))
    // Beside the heading, not in it: the heading is called what its author called it.
    const row = create('div', 'heading')
    heading.replaceWith(row)
    row.append(heading, link)
  }
}

function dressLink(link: HTMLAnchorElement, context: Context): void {
  if (link.classList.contains('anchor')) return
  // The door has taken the address off a link with a scheme that it refuses.
  const href = link.getAttribute('href')
  const destination: Destination =
    href === null ? { kind: 'refused', reason: 'scheme' } : resolve(href, context.path, context.has)
  if (destination.kind === 'page') {
    link.setAttribute('href', context.href(destination.path, destination.heading))
  } else if (destination.kind === 'file') {
    link.setAttribute('href', '#')
    link.dataset['file'] = destination.path
  } else if (destination.kind === 'external') {
    link.setAttribute('href', destination.url)
    link.setAttribute('rel', 'noopener noreferrer nofollow')
    link.setAttribute('target', '_blank')
    link.classList.add('external')
  } else {
    const address = destination.kind === 'magnet' ? context.open(destination.link) : null
    if (address !== null) link.setAttribute('href', address)
    else unlink(link, destination.kind === 'refused' ? destination.reason : 'scheme')
  }
}

/** A link to nowhere stays readable, says why it leads nowhere, and is no link. */
function unlink(link: HTMLAnchorElement, reason: (Destination & { kind: 'refused' })['reason']): void {
  const dead = create('span', 'dead-link')
  dead.title = text.deadLink[reason]
  dead.append(...link.childNodes, create('span', 'unseen', ` (${text.deadLink[reason]})`))
  link.replaceWith(dead)
}

function dressImage(image: HTMLImageElement, context: Context): void {
  const source = image.getAttribute('data-src') ?? ''
  image.removeAttribute('data-src')
  if (/^data:image\/(?:png|jpeg|gif|webp|avif);base64,/i.test(source)) {
    image.src = source
    return
  }
  const destination = resolve(source, context.path, context.has)
  if (destination.kind === 'file' && imageType(destination.path) !== null) {
    image.dataset['file'] = destination.path
    image.dataset['state'] = 'waiting'
    image.decoding = 'async'
  } else if (destination.kind === 'external' && URL.canParse(destination.url)) {
    image.replaceWith(remoteImage(image.alt, new URL(destination.url)))
  } else {
    image.replaceWith(placeholder(image.alt, text.missingImage))
  }
}

/** Remote images are off: fetching one tells its host who reads what. The reader can go and see. */
function remoteImage(alt: string, url: URL): Element {
  const box = placeholder(alt, text.remoteImage(url.hostname))
  const link = create('a', 'external', text.openRemote)
  link.setAttribute('href', url.href)
  link.setAttribute('rel', 'noopener noreferrer nofollow')
  link.setAttribute('target', '_blank')
  box.append(' ', link)
  return box
}

/** What stands where an image does not. */
export function placeholder(alt: string, reason: string): HTMLElement {
  const box = create('span', 'placeholder')
  if (alt !== '') box.append(create('span', 'alt', alt))
  box.append(create('span', 'reason', reason))
  return box
}

/** A wide table scrolls by itself, also by keyboard; the page does not. */
function scrollable(table: HTMLTableElement): Element {
  const box = create('div', 'scroll')
  box.tabIndex = 0
  box.setAttribute('role', 'region')
  box.setAttribute('aria-label', text.table)
  box.append(table.cloneNode(true))
  return box
}

function dressCode(block: HTMLElement): void {
  block.tabIndex = 0
  block.setAttribute('role', 'region')
  block.setAttribute('aria-label', block.dataset['language'] ?? text.code)
  const box = create('div', 'code')
  block.replaceWith(box)
  const copy = create('button', 'copy', text.copyCode)
  copy.setAttribute('type', 'button')
  box.append(block, copy)
}

function create<K extends keyof HTMLElementTagNameMap>(
  name: K,
  className: string,
  content = '',
): HTMLElementTagNameMap[K] {
  const element = document.createElement(name)
  element.className = className
  element.textContent = content
  return element
}
