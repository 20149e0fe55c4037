# Finds out what the files of the current directory are, installs what they need, builds them, and writes to ~/.start how their
# program is started. BUILD_COMMAND and START_COMMAND come before what is found. Says on standard error why it cannot.
set -u

has() { [ -e "$1" ]; }
script() { node -e 'process.exit(JSON.parse(fs.readFileSync("package.json", "utf8")).scripts?.[process.argv[1]] ? 0 : 1)' "$1"; }
run() {
  printf '$ %s\n' "$*"
  "$@" || fail "\"$*\" ended with exit code $?"
}
fail() {
  printf '%s\n' "$*" >&2
  exit 1
}
need() { command -v "$1" >/dev/null || fail "This needs \"$1\", which the computer does not have; see the documentation of images."; }

# An archive of one folder means what is in it.
only=$(find . -mindepth 1 -maxdepth 1 | head -n 2)
if [ -d "$only" ] && [ "$(printf '%s\n' "$only" | wc -l)" = 1 ]; then
  cd "$only" || exit 1
fi

procfile() { sed -n 's/^web:[[:space:]]*//p' Procfile 2>/dev/null | head -n 1; }

first_of() {
  for name in "$@"; do has "$name" && printf '%s' "$name" && return; done
  return 1
}

build_node() {
  need node
  if has pnpm-lock.yaml; then
    need pnpm
    run pnpm install --frozen-lockfile
  elif has yarn.lock; then
    need yarn
    run yarn install --frozen-lockfile
  elif has package-lock.json || has npm-shrinkwrap.json; then
    need npm
    run npm ci --no-audit --no-fund
  else
    need npm
    run npm install --no-audit --no-fund
  fi
  if script build; then run npm run build; fi
}

start_node() {
  if script start; then
    echo 'exec npm start --silent'
    return
  fi
  main=$(node -p 'JSON.parse(fs.readFileSync("package.json", "utf8")).main ?? ""')
  if [ -n "$main" ] && has "$main"; then :; else main=$(first_of server.js index.js app.js main.js server.mjs index.mjs app.mjs main.mjs) || return 1; fi
  printf 'exec node %q\n' "$main"
}

build_python() {
  need python3
  if has requirements.txt; then
    run python3 -m pip install --disable-pip-version-check -r requirements.txt
  elif has pyproject.toml || has setup.py; then
    run python3 -m pip install --disable-pip-version-check .
  fi
}

start_python() {
  if has manage.py; then
    echo 'exec python3 manage.py runserver "0.0.0.0:$PORT"'
    return
  fi
  main=$(first_of main.py app.py server.py agent.py run.py) || return 1
  module=${main%.py}
  if grep -q '__main__' "$main"; then
    printf 'exec python3 %q\n' "$main"
  elif grep -qE '^[A-Za-z_]+ *= *(fastapi\.)?FastAPI\(|^[A-Za-z_]+ *= *Starlette\(' "$main"; then
    name=$(sed -nE 's/^([A-Za-z_]+) *= *(fastapi\.)?(FastAPI|Starlette)\(.*/\1/p' "$main" | head -n 1)
    echo "exec python3 -m uvicorn $module:$name --host 0.0.0.0 --port \"\$PORT\""
  elif grep -qE '^[A-Za-z_]+ *= *(flask\.)?Flask\(' "$main"; then
    echo "exec python3 -m flask --app $module run --host 0.0.0.0 --port \"\$PORT\""
  else
    printf 'exec python3 %q\n' "$main"
  fi
}

kind=
if has package.json; then
  kind=node
elif first_of requirements.txt pyproject.toml setup.py manage.py main.py app.py server.py agent.py run.py >/dev/null; then
  kind=python
fi

if [ -n "${BUILD_COMMAND:-}" ]; then
  printf '$ %s\n' "$BUILD_COMMAND"
  bash -c "$BUILD_COMMAND" || fail "The build command ended with exit code $?."
elif [ -n "$kind" ]; then
  "build_$kind"
fi

start=${START_COMMAND:-$(procfile)}
if [ -z "$start" ] && [ -n "$kind" ]; then start=$("start_$kind"); fi
if [ -z "$start" ] && [ -z "$kind" ] && has Dockerfile; then
  fail 'There is only a Dockerfile, and images are not built here: give build_command and start_command, or a Procfile.'
fi
[ -n "$start" ] || fail 'Nothing says how this is started: give a Procfile with "web: …", a package.json with a start script, a main.py, or start_command.'
printf 'cd -- %q || exit 1\n%s\n' "$PWD" "$start" >"$HOME/.start"
echo "It is started with: $start"
