"""The program that renders a chat template, in a process of its own, which `chat_template` starts.

It reads a JSON object from standard input and writes a list to standard output, with {"text": "..."} or
{"error": "..."} for each conversation. It is run by its path and imports nothing of tinyllama.
"""

import json
import sys
from datetime import datetime


def main():
    """Render the template for each conversation."""
    request = json.load(sys.stdin)
    sys.path[:] = request["import_path"]
    template = attempt(compiled, request)
    json.dump([template if isinstance(template, dict) else attempt(render, template, messages, request)
               for messages in request["conversations"]], sys.stdout)


def attempt(function, *arguments):
    """What the function returns, or {"error": why it does not}."""
    try:
        return function(*arguments)
    except MemoryError:
        return {"error": "it needs too much memory"}
    except RecursionError:
        return {"error": "it is nested too deep"}
    except Exception as error:              # whatever a stranger's template raises
        return {"error": explain(error)[:500]}


def compiled(request):
    """The template, ready to be rendered, once this process has bound what it may use."""
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %}, which marks an answer for training, renders what is in it."""

        tags = frozenset({"generation"})

        def parse(self, parser):
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    # as transformers has them, so that a template means the same
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": raise_exception,
                            "strftime_now": lambda form: datetime.now().strftime(form)}
    limit(request["memory"], request["seconds"])
    return environment.from_string(request["template"])


def render(template, messages, request):
    """{"text": ...} of one conversation."""
    parts = template.generate(messages=messages, **request["variables"])
    return {"text": whole(parts, request["characters"])}


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """JSON with the characters as they are: the filter of Jinja itself would write < as \\u003c, for web pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def whole(parts, most):
    """The parts joined. Raises ValueError once they have more than `most` characters."""
    texts, size = [], 0
    for part in parts:
        texts.append(part)
        size += len(part)
        if size > most:
            raise ValueError(f"it writes more than {most:,} characters")
    return "".join(texts)


def limit(memory, seconds):
    """Bound what this process may use, where the system can: no more memory than that, no file written, no child."""
    try:
        import resource
    except ImportError:         # Windows: the parent's clock remains
        return
    for name, most in (("AS", memory), ("CPU", seconds + 1), ("FSIZE", 0), ("CORE", 0), ("NPROC", 0)):
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):       # macOS refuses some of them
            continue


def explain(error):
    """What went wrong, in words for the user."""
    kind = type(error).__name__
    if kind == "ModuleNotFoundError":
        return f"it takes the package {error.name} to render it (pip install {error.name})"
    if kind == "TemplateSyntaxError":
        return f"line {error.lineno} is no Jinja: {error}"
    if kind == "TemplateError":
        return f"it refuses these messages: {error}"
    if kind == "SecurityError":
        return f"it does what no template may do: {error}"
    return f"{kind}: {error}"


if __name__ == "__main__":
    main()
