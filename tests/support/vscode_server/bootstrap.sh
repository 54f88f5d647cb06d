# What a remote extension runs on a host: install the server if it is not there, start it if none runs, say where it
# listens. Goes to the input of `sh`, or is one long command. `id`, `commit` and `listen_on` (port or socket) stand above.
set -u
umask 077
echo "$id: running"

data=$HOME/.vscode-server
place=$data/bin/$commit
state=$data/.$commit # and .pid, .log, .token
run=${XDG_RUNTIME_DIR:-/tmp}
mkdir -p "$place"

fail() {
    echo "$id: failed: $1"
    exit 1
}

# Two windows at once: one installs and starts, the other waits for it and finds.
exec 9>"$run/vscode-remote-lock.$(id -u).$commit"
flock -w 30 9 || fail 'the lock of another window was not given back'

uploaded=0
if ! [ -x "$place/node" ]; then
    uploaded=1
    echo "$id:trigger_server_download"
    echo "destFolder==$place/=="
    echo "$id:trigger_server_download_end"
    tries=0
    while ! [ -f "$place/vscode-server.tar.gz.done" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail 'no archive came'
        sleep 0.1
    done
    tar -xzf "$place/vscode-server.tar.gz" --strip-components 1 -C "$place" || fail 'the archive cannot be unpacked'
    rm "$place/vscode-server.tar.gz" "$place/vscode-server.tar.gz.done"
fi

is_running() {
    [ -f "$state.pid" ] && ps -o args= -p "$(cat "$state.pid")" | grep -q "$place/out/server-main.js"
}

found=1
if ! is_running; then
    found=0
    : >"$state.log" # now, not when the background gets to it: its last line is what we wait for
    head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$state.token"
    case $listen_on in
        port) set -- --host=127.0.0.1 --port=0 ;;
        socket) set -- "--socket-path=$run/vscode-server-$id.sock" ;;
    esac
    "$place/node" "$place/out/server-main.js" --start-server "$@" --connection-token-file "$state.token" \
        --server-data-dir "$data" --accept-server-license-terms --telemetry-level off --enable-remote-auto-shutdown \
        >>"$state.log" 2>&1 </dev/null 9>&- &
    echo $! >"$state.pid"
fi
tries=0
until grep -q 'agent listening on' "$state.log"; do
    kill -0 "$(cat "$state.pid")" || fail "the server ended: $(tail -n 5 "$state.log")"
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || fail 'the server does not listen'
    sleep 0.1
done
flock -u 9
exec 9>"$run/vscode-remote-lock.$(id -u).$commit"

echo "$id: start"
echo "listeningOn==$(sed -n 's/.*agent listening on //p' "$state.log" | head -n 1)=="
echo "connectionToken==$(cat "$state.token")=="
echo "pid==$(cat "$state.pid")=="
echo "found==$found=="
echo "uploaded==$uploaded=="
echo "platform==$(uname -s)=="
echo "SSH_AUTH_SOCK==${SSH_AUTH_SOCK:-}=="
echo "$id: end"
