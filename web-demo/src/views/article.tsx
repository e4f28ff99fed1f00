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
  const { magnet, version, place } = state

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

  useEffect(() => {
    const heading = place.heading === null ? null : root.current && findHeading(root.current, place.heading)
    heading?.scrollIntoView()
  }, [page, place])

  return <article ref={root} class="prose" data-path={page.path} onClick={(event) => click(event, actions)} />
}

/** Clicks on what `dress` made: files to save, code to copy. */
function click(event: MouseEvent, actions: Actions): void {
  const target = event.target as Element
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
