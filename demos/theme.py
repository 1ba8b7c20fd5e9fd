"""How the demo looks: a theme from system fonts, and the little CSS that Gradio's variables do not reach.

Photographs are judged on neutral grey, so the page is grey and has one colour, the orange of a darkroom's safelight.
"""

from __future__ import annotations

import gradio as gr

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> gr.themes.Base:
    """No font is fetched: a page that is opened offline looks as it does online."""
    accent = gr.themes.Color(
        name="safelight",
        c50="#fff5ef",
        c100="#ffe6d7",
        c200="#fdc9ab",
        c300="#faa676",
        c400="#f47d3f",
        c500="#e35d19",
        c600="#c2470c",
        c700="#a0380d",
        c800="#802f11",
        c900="#682911",
        c950="#381206",
    )
    base = gr.themes.Base(
        primary_hue=accent,
        secondary_hue=gr.themes.colors.neutral,
        neutral_hue=gr.themes.colors.neutral,
        text_size=gr.themes.sizes.text_md,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=SANS,
        font_mono=MONO,
    )
    return base.set(
        body_background_fill="#f4f4f3",
        body_background_fill_dark="#161615",
        block_background_fill="white",
        block_background_fill_dark="#1f1f1e",
        block_border_color="#e2e2df",
        block_border_color_dark="#333331",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0",
        block_label_text_size="*text_xs",
        block_title_text_weight="500",
        input_background_fill="#fafaf9",
        input_background_fill_dark="#272725",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_large_text_weight="600",
        button_border_width="1px",
        slider_color="*primary_500",
    )


CSS = """
.gradio-container { width: 100%; max-width: 1240px !important; margin: 0 auto !important; }
.gradio-container .main { padding: clamp(8px, 2.5vw, 32px) !important; }
footer { display: none !important; }
#masthead { padding: 10px 2px 0; }
#masthead h1 { font: 600 1.75rem/1.1 ui-serif, Georgia, "Times New Roman", serif; letter-spacing: -0.02em; margin: 0; }
#masthead h1 b { color: var(--primary-600); font-weight: 600; }
#masthead p { margin: 4px 0 0; color: var(--body-text-color-subdued); }
.example { font-weight: 400 !important; }
#variants-made .grid-wrap { max-height: none; min-height: 0; height: auto; }
#shelf .thumbnail-item { border-radius: var(--radius-md); }
.quiet, .quiet p { font-size: var(--text-sm); color: var(--body-text-color-subdued); margin: 0; }
.tight { gap: 8px; }
.dice { min-width: 48px !important; max-width: 48px; align-self: end; }
#status p { margin: 0; }
.line { align-items: center; flex-wrap: nowrap; }
@media (max-width: 640px) {
  .tab-container button { padding: 6px 7px !important; font-size: 14px !important; }
  #masthead h1 { font-size: 1.45rem; }
}
"""
