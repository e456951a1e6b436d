"""Reports of verdicts for people and for CI: a page of HTML, and JUnit's XML."""

from .fragment import render_fragment as render_fragment
from .junit import render_junit as render_junit
from .page import render_html as render_html
