def overlay_pool():
    """Waits for a program on descriptor 3, and runs it as if Python had been started with it."""
    import linecache
    import os
    import sys

    with open(3, "r+b", buffering=0) as host:
        host.write(b"w")
        said = host.readall()
    count, said = said.split(b"\0", 1)
    *arguments, said = said.split(b"\0", int(count))
    count, said = said.split(b"\0", 1)
    *variables, said = said.split(b"\0", int(count))

    sys.argv[:] = map(os.fsdecode, arguments)
    for variable in variables:
        name, _, value = variable.partition(b"=")
        os.environb[name] = value
    sys.stdout.reconfigure(line_buffering=True)
    name = "<string>" if sys.argv[0] == "-c" else sys.argv[0]
    lines = said.decode(errors="replace").splitlines(True)
    linecache.cache[name] = len(said), None, lines, name
    namespace = sys.modules["__main__"].__dict__
    del namespace["overlay_pool"]
    try:
        exec(compile(said, name, "exec", dont_inherit=True), namespace)
    except SystemExit:
        raise
    except BaseException as error:
        # Without the lines of this function.
        trace = error.__traceback__.tb_next
        if isinstance(error, KeyboardInterrupt):
            raise
        error = error.with_traceback(trace)
        sys.excepthook(type(error), error, trace)
        sys.exit(1)


overlay_pool()
