"""A report's Markdown as one HTML file with its pictures inside."""

import base64
import html
import re
from pathlib import Path
from urllib.parse import unquote

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; font-size: 0.9rem }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.6rem; white-space: nowrap }
img { max-width: 100% } pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: 0.85rem }
"""


def page(text: str, out: Path) -> str:
    """The page.

    Args:
        text: Markdown, its title in the first line.
        out: the folder that its pictures' links start from.
    """
    import markdown

    body = markdown.markdown(text, extensions=["tables", "fenced_code", "toc"])

    def inline(match: re.Match) -> str:
        data = base64.b64encode((out / unquote(html.unescape(match[1]))).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="(pictures/[^"]+)"', inline, body)
    title = html.escape(text.splitlines()[0].removeprefix("# "))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
