// Decrypts messages with OpenPGP.js, as a client's program written with it does.
//
// node read.js SECRET_KEY MESSAGE...    both binary; nothing of the library's defaults is changed
//
// Writes one line for each message: its data in base64. A message that cannot be decrypted as a whole
// ends the program with the library's error.

'use strict';

const fs = require('fs');
const openpgp = require('openpgp');

async function main([keyFile, ...messageFiles]) {
  const decryptionKeys = await openpgp.readPrivateKey({ binaryKey: fs.readFileSync(keyFile) });
  for (const file of messageFiles) {
    const message = await openpgp.readMessage({ binaryMessage: fs.readFileSync(file) });
    const { data } = await openpgp.decrypt({ message, decryptionKeys, format: 'binary' });
    process.stdout.write(`${Buffer.from(data).toString('base64')}\n`);
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
