/**
 * The one door through which untrusted text becomes part of the page.
 *
 * `require-trusted-types-for 'script'` makes the browser refuse HTML from anywhere else: the only Trusted Types policy
 * is made here, and does not leave this file.
 */
import DOMPurify from 'dompurify'

const refuse = () => {
  throw new TypeError('no script is ever made from text')
}

const policy = window.trustedTypes?.createPolicy('swarmgate', {
  // DOMPurify parses through this, in a document without scripts, and hands back what is left after cleaning.
  createHTML: (html) => html,
  createScript: refuse,
  createScriptURL: refuse,
})

/** Elements a page may contain: what Markdown makes, and little more. */
const TAGS =
  'a abbr b blockquote br code del div dd dl dt em h1 h2 h3 h4 h5 h6 hr i img input ins kbd li mark ol p pre q s samp small span strong sub sup table tbody td tfoot th thead tr ul var'.split(
    ' ',
  )

/** Attributes a page may carry. `src` is not among them: see {@link sanitize}. */
const ATTRIBUTES =
  'href title alt align colspan rowspan start lang dir type checked disabled data-language data-src'.split(' ')

/** Addresses a link may have: these schemes, or relative. Everything else (`javascript:`, `data:`, …) is dropped. */
const LINKS = /^(?:(?:https?|mailto|magnet):|[^a-z]|[a-z+.-]+(?:[^a-z+.\-:]|$))/i

/**
 * The harmless remainder of `html`, as nodes.
 *
 * Images come out with their address in `data-src` and none in `src`, so nothing is fetched until somebody decides
 * where it comes from.
 */
export function sanitize(html: string): DocumentFragment {
  DOMPurify.addHook('uponSanitizeAttribute', (element, attribute) => {
    if (attribute.attrName !== 'src') return
    if (element.tagName === 'IMG') element.setAttribute('data-src', attribute.attrValue)
    attribute.keepAttr = false
  })
  DOMPurify.addHook('uponSanitizeElement', (node) => {
    // The only input a page may show is the box of a task list, which does nothing.
    const element = node as Element
    if (element.tagName !== 'INPUT') return
    if (element.getAttribute('type') === 'checkbox') element.setAttribute('disabled', '')
    else element.remove()
  })
  try {
    const clean: Node = DOMPurify.sanitize(html, {
      ALLOWED_TAGS: TAGS,
      ALLOWED_ATTR: ATTRIBUTES,
      ALLOW_DATA_ATTR: false,
      ALLOW_ARIA_ATTR: false,
      ALLOWED_URI_REGEXP: LINKS,
      RETURN_DOM_FRAGMENT: true,
      ...(policy && { TRUSTED_TYPES_POLICY: policy }),
    })
    return clean as DocumentFragment
  } finally {
    DOMPurify.removeAllHooks()
  }
}

/** The character that an entity such as `&eacute;` stands for, by the browser's own table; unknown ones stay as written. */
export function decodeEntity(entity: string): string {
  if (!/^&#?[a-z0-9]{1,32};$/i.test(entity)) return entity
  const html = `<!doctype html><body>${entity}`
  const parsed = new DOMParser().parseFromString((policy?.createHTML(html) ?? html) as string, 'text/html')
  return parsed.body.textContent ?? entity
}
