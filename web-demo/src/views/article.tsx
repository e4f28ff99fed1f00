import { useEffect, useLayoutEffect, useRef } from 'preact/hooks'

import { formatRoute, parseLink } from '../route.ts'
import { sanitize } from '../site/door.ts'
import { dress, findHeading } from '../site/dress.ts'
import { loadImages } from '../site/images.ts'
import type { Page, State } from '../state.ts'
import { text } from '../text.ts'
import type { Actions } from './actions.ts'

interface Props {
  readonly state: State
  readonly page: Page
  readonly actions: Actions
}

/** The page itself. Its inside is not the framework's: it is what came through the door. */
export function Article({ state, page, actions }: Props) {
  const root = useRef<HTMLElement>(null)
  const { magnet, version, place, scroll } = state

  useLayoutEffect(() => {
    const element = root.current
    if (!element || !magnet || !version) return undefined
    const paths = new Set(version.paths)
    const body = sanitize(page.html)
    dress(body, {
      path: page.path,
      has: (path) => paths.has(path),
      href: (target, heading) => formatRoute({ magnet, place: { page: target, heading } }),
      open: (link) => {
        try {
          return formatRoute(parseLink(link))
        } catch {
          return null
        }
      },
    })
    element.replaceChildren(body)
    return loadImages(element, actions.image)
    // `version` changes together with the page it belongs to.
  }, [page])

  // Going back returns to where one was; a link to a heading goes there; anything else begins at the top. An update of
  // the page on display moves nothing.
  useEffect(() => {
    if (scroll !== null) scrollTo({ top: scroll, behavior: 'instant' })
    else if (place.heading !== null) goTo(root.current, place.heading)
    else scrollTo({ top: 0, behavior: 'instant' })
  }, [page.path, place])

  // The link that was followed is gone with its page: whoever uses the keyboard goes on at the new one, not at the top.
  const entered = useRef(page.path)
  useEffect(() => {
    const followed = entered.current !== page.path && document.activeElement === document.body
    entered.current = page.path
    if (followed) root.current?.closest('main')?.focus({ preventScroll: true })
  }, [page.path])

  return <article ref={root} class="prose" data-path={page.path} onClick={(event) => click(event, state, actions)} />
}

function goTo(root: HTMLElement | null, heading: string): void {
  const found = root && findHeading(root, heading)
  found?.scrollIntoView()
}

/** Clicks on what `dress` made: files to save, code to copy, and the place one is at already. */
function click(event: MouseEvent, { place }: State, actions: Actions): void {
  const target = event.target as Element
  const link = target.closest('a')
  if (link?.hash === location.hash && place.heading !== null) goTo(event.currentTarget as HTMLElement, place.heading)
  const file = target.closest<HTMLElement>('a[data-file]')?.dataset['file']
  if (file !== undefined) {
    event.preventDefault()
    actions.save(file)
  }
  const copy = target.closest<HTMLElement>('button.copy')
  if (copy) void copyCode(copy)
}

async function copyCode(button: HTMLElement): Promise<void> {
  await navigator.clipboard.writeText(button.parentElement?.querySelector('pre')?.textContent ?? '')
  button.textContent = text.codeCopied
  setTimeout(() => (button.textContent = text.copyCode), 2_000)
}
