/** Fetches the images of a page as they come near the view, and lets go of them when the page is left. */
import { text } from '../text.ts'
import { placeholder } from './dress.ts'

/** How far below the view an image is fetched ahead of being seen. */
const AHEAD = '800px'

/** Loads the images below `root` that wait for a file of the site; the returned function stops and frees everything. */
export function loadImages(root: Element, read: (path: string) => Promise<Blob>): () => void {
  const urls: string[] = []
  let stopped = false

  const load = async (image: HTMLImageElement) => {
    try {
      const blob = await read(image.dataset['file'] ?? '')
      if (stopped) return
      const url = URL.createObjectURL(blob)
      urls.push(url)
      image.src = url
      // Shown when it is whole, so that it does not appear in strips.
      await image.decode()
      image.dataset['state'] = 'loaded'
    } catch {
      if (!stopped) image.replaceWith(placeholder(image.alt, text.brokenImage))
    }
  }

  const observer = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue
        observer.unobserve(target)
        void load(target as HTMLImageElement)
      }
    },
    { rootMargin: AHEAD },
  )
  for (const image of root.querySelectorAll('img[data-state="waiting"]')) observer.observe(image)

  return () => {
    stopped = true
    observer.disconnect()
    for (const url of urls) URL.revokeObjectURL(url)
  }
}
