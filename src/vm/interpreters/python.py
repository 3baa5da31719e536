def overlay_pool():
    """Waits for a program on descriptor 3, and runs it as if Python had been started with it."""
    import gc
    import linecache
    import os
    import sys

    def parse(said):
        count, said = said.split(b"\0", 1)
        *arguments, said = said.split(b"\0", int(count))
        count, said = said.split(b"\0", 1)
        *variables, said = said.split(b"\0", int(count))
        return arguments, variables, said

    def run(name, code, namespace):
        lines = code.decode(errors="replace").splitlines(True)
        linecache.cache[name] = len(code), None, lines, name
        exec(compile(code, name, "exec", dont_inherit=True), namespace)

    sys.stdout.reconfigure(line_buffering=True)
    # All that a program's first line goes through, once for nothing: what is used for the first
    # time takes longest.
    if sys.argv[1:] != ["at-once"]:
        _, _, code = parse(b"1\0-c\0" b"0\0print(end='')")
        run("ready", code, {})
        linecache.clearcache()
    # What is there by now lives as long as Python: there is no garbage to look for in it.
    gc.freeze()

    with open(3, "r+b", buffering=0) as host:
        host.write(b"w")
        said = host.readall()
    arguments, variables, code = parse(said)
    sys.argv[:] = map(os.fsdecode, arguments)
    for variable in variables:
        name, _, value = variable.partition(b"=")
        os.environb[name] = value
    name = "<string>" if sys.argv[0] == "-c" else sys.argv[0]
    namespace = sys.modules["__main__"].__dict__
    del namespace["overlay_pool"]
    try:
        run(name, code, namespace)
    except SystemExit:
        raise
    except BaseException as error:
        # Without the lines of these functions.
        trace = error.__traceback__.tb_next.tb_next
        if isinstance(error, KeyboardInterrupt):
            raise
        error = error.with_traceback(trace)
        sys.excepthook(type(error), error, trace)
        sys.exit(1)


overlay_pool()
