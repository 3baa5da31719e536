{
  // Waits for a program on descriptor 3, and runs it as if Node.js had been started with it.
  const fs = require('fs');
  const path = require('path');
  const Module = require('module');

  const parse = (said) => {
    let at = 0;
    const field = () => {
      const end = said.indexOf(0, at);
      const text = said.toString('utf8', at, end);
      at = end + 1;
      return text;
    };
    const fields = () => Array.from({ length: Number(field()) }, field);
    const [args, variables] = [fields(), fields()];
    return { args, variables, code: said.toString('utf8', at).replace(/^#!/, '//') };
  };
  const run = (main, name, code) => {
    main.filename = path.resolve(name);
    main.paths = Module._nodeModulePaths(process.cwd());
    main._compile(code, main.filename);
    main.loaded = true;
  };

  const read = (fd) => {
    const said = fs.readFileSync(fd);
    fs.closeSync(fd);
    return parse(said);
  };
  const set = (args, variables) => {
    for (const variable of variables) {
      const equals = variable.indexOf('=');
      process.env[variable.slice(0, equals)] = variable.slice(equals + 1);
    }
    process.argv.splice(1, process.argv.length, ...args);
  };

  // All that a program's first line goes through, once for nothing: Node.js makes its streams and
  // compiles its own functions when they are first used.
  const rehearse = () => {
    process.stderr.write('');
    process.stdout.write('');
    read(fs.openSync('/proc/self/comm'));
    set(['-c'], []);
    process.mainModule = new Module('.', null);
    process.stdout.write = () => true;
    const { code } = parse(Buffer.from("1\0-c\x000\0console.log('ready')"));
    run(new Module('.', null), '[eval]', code);
    delete process.stdout.write;
  };
  if (process.argv[1] !== 'at-once') rehearse();

  fs.writeSync(3, 'w');
  const { args, variables, code } = read(3);
  set(args, variables);
  process.mainModule = new Module('.', null);
  run(process.mainModule, args[0] === '-c' ? '[eval]' : args[0], code);
}
