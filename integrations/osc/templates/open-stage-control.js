// Custom module for the page `SmartDJ` of Open Stage Control: fills in the plan and its steps as `smartdj osc` tells them.
//   open-stage-control --send 127.0.0.1:9110 --osc-port 9111 --load smartdj.open-stage-control.json \
//                      --custom-module open-stage-control.js
const HOST = '127.0.0.1', PORT = 9110, HERE = 9111, STEPS = 8

const show = (id, value) => receive('/SET', id, value)
const subscribe = () => send(HOST, PORT, '/smartdj/subscribe',
    {type: 's', value: 'open-stage-control'}, {type: 'i', value: HERE}, {type: 'i', value: 60})

module.exports = {
    init: function () {
        subscribe()
        setInterval(subscribe, 20000)
    },
    oscInFilter: function (data) {
        const args = data.args.map(arg => arg.value)
        switch (data.address) {
            case '/smartdj/state':
                show('state', `${args[0]} – ${args[1] || 'no recording'}`)
                break
            case '/smartdj/progress':
                show('progress', args[2])
                break
            case '/smartdj/plan/begin':
                for (let step = args[1] + 1; step <= STEPS; step++) show(`step_${step}`, '')
                break
            case '/smartdj/plan/step':
                show(`step_${args[1]}`, args[3])
                show(`step_${args[1]}_on`, data.args[4].value === false || data.args[4].type === 'F' ? 0 : 1)
                break
            case '/smartdj/error':
                show('message', `${args[1]}: ${args[2]} – ${args[3]}`)
                break
            case '/smartdj/question':
                show('message', args.slice(1).join(' | '))
                break
            case '/smartdj/done':
                show('message', `done: ${args[1]}`)
                break
        }
        return data
    }
}
