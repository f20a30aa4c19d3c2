// An SFTP server of another make, written with npm's ssh2 as somebody in a hurry writes one.
//
// Reads one JSON line from standard input: {username, password, hostKey}. Writes its port to standard
// output once it listens on 127.0.0.1, and ends when standard input does. Paths are the machine's.
//
// What sets it apart: no extensions at all, fs.rename, which replaces what is there (reliability.md
// F75), and FAILURE for almost everything that goes wrong.

'use strict';

const fs = require('fs');
const readline = require('readline');
const { Server, utils } = require('ssh2');

const { STATUS_CODE, OPEN_MODE } = utils.sftp;

// ssh2's own flagsToString knows no exclusive creation without truncation.
function flagsOf(mode) {
  const { O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } = fs.constants;
  const access = mode & OPEN_MODE.WRITE ? (mode & OPEN_MODE.READ ? O_RDWR : O_WRONLY) : O_RDONLY;
  return access | (mode & OPEN_MODE.CREAT ? O_CREAT : 0) | (mode & OPEN_MODE.EXCL ? O_EXCL : 0)
    | (mode & OPEN_MODE.TRUNC ? O_TRUNC : 0);
}

function serve(sftp) {
  const handles = new Map();
  let nextHandle = 0;

  const done = (id) => (error) => sftp.status(id, error ? code(error) : STATUS_CODE.OK);
  const fileOf = (handle) => handles.get(handle.toString('hex'));

  function code(error) {
    if (error.code === 'ENOENT') return STATUS_CODE.NO_SUCH_FILE;
    if (error.code === 'EACCES' || error.code === 'EPERM') return STATUS_CODE.PERMISSION_DENIED;
    return STATUS_CODE.FAILURE;
  }

  function attributes(id) {
    return (error, stats) => {
      if (error) return sftp.status(id, code(error));
      sftp.attrs(id, {
        mode: stats.mode, uid: stats.uid, gid: stats.gid, size: stats.size,
        atime: stats.atimeMs / 1000, mtime: stats.mtimeMs / 1000,
      });
    };
  }

  sftp.on('OPEN', (id, path, flags) => {
    fs.open(path, flagsOf(flags), 0o644, (error, file) => {
      if (error) return sftp.status(id, code(error));
      const handle = Buffer.alloc(4);
      handle.writeUInt32BE(nextHandle++);
      handles.set(handle.toString('hex'), file);
      sftp.handle(id, handle);
    });
  });
  sftp.on('WRITE', (id, handle, offset, data) => {
    const file = fileOf(handle);
    if (file === undefined) return sftp.status(id, STATUS_CODE.FAILURE);
    fs.write(file, data, 0, data.length, offset, done(id));
  });
  sftp.on('READ', (id, handle, offset, length) => {
    const file = fileOf(handle);
    if (file === undefined) return sftp.status(id, STATUS_CODE.FAILURE);
    fs.read(file, Buffer.alloc(length), 0, length, offset, (error, count, buffer) => {
      if (error) return sftp.status(id, code(error));
      if (count === 0) return sftp.status(id, STATUS_CODE.EOF);
      sftp.data(id, buffer.subarray(0, count));
    });
  });
  sftp.on('CLOSE', (id, handle) => {
    const file = fileOf(handle);
    if (file === undefined) return sftp.status(id, STATUS_CODE.FAILURE);
    handles.delete(handle.toString('hex'));
    fs.close(file, done(id));
  });
  sftp.on('FSTAT', (id, handle) => fs.fstat(fileOf(handle), attributes(id)));
  sftp.on('LSTAT', (id, path) => fs.lstat(path, attributes(id)));
  sftp.on('STAT', (id, path) => fs.stat(path, attributes(id)));
  sftp.on('REMOVE', (id, path) => fs.unlink(path, done(id)));
  sftp.on('RENAME', (id, from, to) => fs.rename(from, to, done(id)));
  sftp.on('REALPATH', (id, path) => {
    const filename = fs.realpathSync(path);
    sftp.name(id, [{ filename, longname: filename, attrs: {} }]);
  });
  for (const request of ['SETSTAT', 'FSETSTAT', 'OPENDIR', 'READDIR', 'MKDIR', 'RMDIR', 'READLINK',
    'SYMLINK', 'EXTENDED']) {
    sftp.on(request, (id) => sftp.status(id, STATUS_CODE.OP_UNSUPPORTED));
  }
}

function listen(line) {
  const { username, password, hostKey } = JSON.parse(line);
  const server = new Server({ hostKeys: [hostKey] }, (client) => {
    client.on('authentication', (context) => {
      const known = context.method === 'password' && context.username === username
        && context.password === password;
      known ? context.accept() : context.reject(['password']);
    });
    client.on('session', (acceptSession) => {
      acceptSession().on('sftp', (acceptSftp) => serve(acceptSftp()));
    });
    client.on('error', () => {}); // a client that is cut off is no reason to end
  });
  server.listen(0, '127.0.0.1', () => process.stdout.write(`${server.address().port}\n`));
}

const input = readline.createInterface({ input: process.stdin });
input.once('line', listen);
input.once('close', () => process.exit(0));
