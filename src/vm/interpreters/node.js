{
  // Waits for a program on descriptor 3, and runs it as if Node.js had been started with it.
  const fs = require('fs');
  const path = require('path');
  const Module = require('module');

  fs.writeSync(3, 'w');
  const said = fs.readFileSync(3);
  fs.closeSync(3);
  let at = 0;
  const field = () => {
    const end = said.indexOf(0, at);
    const text = said.toString('utf8', at, end);
    at = end + 1;
    return text;
  };
  const fields = () => Array.from({ length: Number(field()) }, field);

  const args = fields();
  for (const variable of fields()) {
    const equals = variable.indexOf('=');
    process.env[variable.slice(0, equals)] = variable.slice(equals + 1);
  }
  const name = args[0] === '-c' ? '[eval]' : args[0];
  process.argv.splice(1, process.argv.length, ...args);
  const main = new Module('.', null);
  main.filename = path.resolve(name);
  main.paths = Module._nodeModulePaths(process.cwd());
  process.mainModule = main;
  main._compile(said.toString('utf8', at).replace(/^#!/, '//'), main.filename);
  main.loaded = true;
}
